package attribution

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReadErrors(t *testing.T) {
	valid, err := os.ReadFile(filepath.Join("testdata", "example.json"))
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) string {
		if !bytes.Contains(valid, []byte(old)) {
			t.Fatalf("the example has no %q", old)
		}
		return strings.Replace(string(valid), old, new, 1)
	}
	tests := []struct {
		name, in, want string
	}{
		{"empty", "", "line 1: unexpected end of JSON input"},
		{"not JSON", "\nelf", "line 2: invalid character 'e' looking for beginning of value"},
		{"other JSON", `{"a":1}`, `not an attribution document: there is no "schema"`},
		{"a list", `[]`, "line 1: cannot unmarshal array"},
		{"newer", `{"schema":"bulkhead.attribution/v2","new":1}`, `this bulkhead reads bulkhead.attribution/v1 only`},
		{"policy", `{"schema":"bulkhead.policy/v1"}`, `schema "bulkhead.policy/v1": not an attribution document`},
		{"no programs", `{"schema":"bulkhead.attribution/v1"}`, "programs: missing or null"},
		{"trailing", string(valid) + "{}", "invalid character '{' after top-level value"},
		{"unknown field", replace(`"build_id"`, `"builid"`), `unknown field "builid"`},
		{"wrong type", replace(`"count": 0`, `"count": -1`), "cannot unmarshal number -1"},
		{"null list", replace(`"via": []`, `"via": null`), "via: missing or null"},
		{"evidence", replace(`"static"`, `"guessed"`), `evidence: "guessed" is not static or traced`},
		{"abi", replace(`"abi": "i386"`, `"abi": "vax"`), `abi: "vax" is not amd64, i386, x32 or arm64`},
		{"dangling", replace(`"object": "libc.so.6"`, `"object": "libx.so"`), `there is no object "libx.so"`},
		{"union", replace(`"i386:write",`, ``), "union: is not the union"},
		{"complete", replace(`"complete": false`, `"complete": true`), "complete: is true, but the losses say false"},
		{"count", replace(`"count": 0`, `"count": 7`), `count: is 7, but the evidence is not "traced"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Read(strings.NewReader(tt.in))
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error %v, want one line with %q", err, tt.want)
			}
		})
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "doc.json")
	d := buildExample()
	if err := d.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadFile(path); err != nil {
		t.Error(err)
	}
}

func FuzzRead(f *testing.F) {
	var example bytes.Buffer
	if err := buildExample().Write(&example); err != nil {
		f.Fatal(err)
	}
	f.Add(example.Bytes())
	f.Add([]byte(`{"schema":"bulkhead.attribution/v1","programs":[]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := Read(bytes.NewReader(data))
		if err != nil {
			return
		}
		var once, twice bytes.Buffer
		if err := d.Write(&once); err != nil {
			t.Fatal(err)
		}
		if err := Merge(d).Write(&twice); err != nil {
			t.Fatalf("the merge of a valid document is not valid: %v", err)
		}
		checkEncodings(t, d)
	})
}

// checkEncodings compares the encoders with encoding/json.
func checkEncodings(t *testing.T, d *Document) {
	t.Helper()
	var got, want bytes.Buffer
	if err := d.Write(&got); err != nil {
		t.Fatal(err)
	}
	enc := json.NewEncoder(&want)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(d); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.String(), got.String()); diff != "" {
		t.Errorf("encoding/json writes another document:\n%s", diff)
	}
	data, err := d.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	again := new(Document)
	if err := again.UnmarshalBinary(data); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(d, again); diff != "" {
		t.Errorf("another document after the binary form:\n%s", diff)
	}
}

func TestEncodings(t *testing.T) {
	d := buildExample()
	checkEncodings(t, d)
	for _, name := range []string{"a\"b\\c", "ö <&> \u2028 \x01\n", "\xff", "\x7f"} {
		for i := range d.Programs[0].Compartments[0].Syscalls {
			s := &d.Programs[0].Compartments[0].Syscalls[i]
			s.Via = []string{name}
			for j := range s.Example {
				s.Example[j].Function = name
			}
		}
		checkEncodings(t, d)
	}
	data, err := d.MarshalBinary()
	if err != nil {
		t.Fatal(err)
	}
	for n := range data {
		if new(Document).UnmarshalBinary(data[:n]) == nil {
			t.Fatalf("%d bytes of %d are a document", n, len(data))
		}
	}
}

func FuzzUnmarshalBinary(f *testing.F) {
	data, err := buildExample().MarshalBinary()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		d := new(Document)
		if d.UnmarshalBinary(data) != nil {
			return
		}
		if err := d.Write(io.Discard); err != nil {
			t.Fatal(err)
		}
	})
}

// TestDocumentedExample: the document in docs/document.md is valid.
func TestDocumentedExample(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "document.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(page), "```json\n")
	example, _, ok := strings.Cut(rest, "```")
	if !ok {
		t.Fatal("docs/document.md has no JSON example")
	}
	if _, err := Read(strings.NewReader(example)); err != nil {
		t.Error(err)
	}
}
