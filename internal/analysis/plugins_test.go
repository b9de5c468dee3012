package analysis

import (
	"slices"
	"strings"
	"testing"
)

func TestServices(t *testing.T) {
	for _, test := range []struct{ config, want string }{
		{"", "files dns nis nisplus"},
		{"passwd: files systemd\nhosts: files dns\n", "files systemd dns nis nisplus"},
		{"passwd: sss[NOTFOUND=return] files\nhosts: db\nnetworks: db\npublickey: db", "files sss db"},
		{"passwd: files [ !UNAVAIL = return ]myhostname\nhosts:files\nnetworks:\tfiles\npublickey: files", "files myhostname"},
		{"passwd: compat\nhosts: files\nnetworks: files\npublickey: files", "files compat nis"},
		{"passwd: compat\npasswd_compat: ldap\ngroup_compat: ldap\nshadow_compat: ldap\nhosts: files\nnetworks: files\npublickey: files",
			"files compat ldap"},
		{"# passwd: comment\n  passwd files sss # winbind\nhosts: files\nnetworks: files\npublickey: files", "files sss # winbind"},
		{"passwd: ../x\nhosts: files\nnetworks: files\npublickey: files\n[", "files"},
	} {
		want := strings.Fields(test.want)
		if got := services([]byte(test.config)); !slices.Equal(got, want) {
			t.Errorf("services of %q are %q, want %q", test.config, got, want)
		}
	}
}
