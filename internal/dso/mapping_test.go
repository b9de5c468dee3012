package dso

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseMapsLine(t *testing.T) {
	file := func(start, end, offset uint64, major, minor uint32, inode uint64, path string) *Mapping {
		return &Mapping{Start: start, End: end, Offset: offset, File: FileID{major, minor, inode, path}}
	}
	for _, test := range []struct {
		name, line string
		want       *Mapping // nil: not ok
	}{
		{"library", "7f1c8e428000-7f1c8e57d000 r-xp 00026000 fe:00 1058466                    /usr/lib/libc.so.6",
			file(0x7f1c8e428000, 0x7f1c8e57d000, 0x26000, 0xfe, 0, 1058466, "/usr/lib/libc.so.6")},
		{"data", "7f1c8e428000-7f1c8e57d000 rw-p 00026000 fe:00 1058466                    /usr/lib/libc.so.6", nil},
		{"vDSO", "7ffd1b5f2000-7ffd1b5f4000 r-xp 00000000 00:00 0                          [vdso]",
			file(0x7ffd1b5f2000, 0x7ffd1b5f4000, 0, 0, 0, 0, "[vdso]")},
		{"anonymous", "7f0000000000-7f0000001000 rwxp 00000000 00:00 0 ",
			file(0x7f0000000000, 0x7f0000001000, 0, 0, 0, 0, "")},
		{"anonymous, cut", "7f0000000000-7f0000001000 rwxp 00000000 00:00 0",
			file(0x7f0000000000, 0x7f0000001000, 0, 0, 0, 0, "")},
		{"above the middle", "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]",
			file(0xffffffffff600000, 0xffffffffff601000, 0, 0, 0, 0, "[vsyscall]")},
		{"blanks and a line feed in the name", `1000-2000 r-xp 00000000 103:1a 7 /tmp/a  b\012c`,
			file(0x1000, 0x2000, 0, 0x103, 0x1a, 7, "/tmp/a  b\nc")},
		{"deleted", "1000-2000 r-xp 00000000 fe:00 7 /lib/libc.so.6 (deleted)",
			file(0x1000, 0x2000, 0, 0xfe, 0, 7, "/lib/libc.so.6")},
		{"memory file", "1000-2000 r-xs 00000000 00:01 7 /memfd:code (deleted)",
			file(0x1000, 0x2000, 0, 0, 1, 7, "/memfd:code (deleted)")},
		{"empty", "", nil},
		{"no range", "1000 r-xp 00000000 fe:00 7 /a", nil},
		{"backwards", "2000-1000 r-xp 00000000 fe:00 7 /a", nil},
		{"nothing", "1000-1000 r-xp 00000000 fe:00 7 /a", nil},
		{"short permissions", "1000-2000 r-x 00000000 fe:00 7 /a", nil},
		{"no device", "1000-2000 r-xp 00000000 fe00 7 /a", nil},
		{"too large a start", "10000000000000000-2 r-xp 00000000 fe:00 7 /a", nil},
		{"sign", "-1000-2000 r-xp 00000000 fe:00 7 /a", nil},
		{"inode in another base", "1000-2000 r-xp 00000000 fe:00 7f /a", nil},
		{"device beyond 32 bits", "1000-2000 r-xp 00000000 100000000:00 7 /a", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, ok := parseMapsLine(test.line)
			if ok != (test.want != nil) {
				t.Fatalf("ok is %v: %+v", ok, got)
			}
			if ok {
				if diff := cmp.Diff(*test.want, got); diff != "" {
					t.Errorf("want -, got +:\n%s", diff)
				}
			}
		})
	}
}

// TestReadMaps on this process, which has at least its program, the vDSO and nothing that overlaps.
func TestReadMaps(t *testing.T) {
	mapped, err := Mappings(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for i, m := range mapped {
		found[m.File.Path] = true
		if i > 0 && m.Start < mapped[i-1].End {
			t.Errorf("%+v begins before %+v ends", m, mapped[i-1])
		}
	}
	if !found[program] || !found["[vdso]"] {
		t.Errorf("mapped are %v: want %s and [vdso]", found, program)
	}
	if _, err := Mappings(1 << 30); err == nil {
		t.Error("no error for a process that cannot be")
	}
}

// FuzzMapsLine: no line is taken for a mapping that is empty, and what is taken survives being written again.
func FuzzMapsLine(f *testing.F) {
	for _, line := range []string{
		"7f1c8e428000-7f1c8e57d000 r-xp 00026000 fe:00 1058466                    /usr/lib/x86_64-linux-gnu/libc.so.6",
		"ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]",
		"7f0000000000-7f0000001000 rwxp 00000000 00:00 0 ",
		`1000-2000 r-xp 00000000 103:1a 7 /tmp/a  b\012c (deleted)`,
		"1000-2000 r-xs 00000000 00:01 7 /memfd:code (deleted)",
		"- x x:x",
	} {
		f.Add(line)
	}
	f.Fuzz(func(t *testing.T, line string) {
		m, ok := parseMapsLine(line)
		if !ok {
			return
		}
		if m.Start >= m.End {
			t.Fatalf("%q: %#x-%#x is empty", line, m.Start, m.End)
		}
		again, ok := parseMapsLine(mapsLine(m))
		if diff := cmp.Diff(m, again); !ok || diff != "" {
			t.Fatalf("%q is read as %+v, that as %+v (%v)", line, m, again, ok)
		}
	})
}

// mapsLine writes a mapping as the kernel does. A path that the kernel would mark is marked once more.
func mapsLine(m Mapping) string {
	path := strings.ReplaceAll(m.File.Path, "\n", `\012`)
	if strings.HasSuffix(path, " (deleted)") && !strings.HasPrefix(path, "/memfd:") {
		path += " (deleted)"
	}
	return fmt.Sprintf("%x-%x r-xp %08x %02x:%02x %d %s",
		m.Start, m.End, m.Offset, m.File.Major, m.File.Minor, m.File.Inode, path)
}
