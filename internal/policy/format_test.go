package policy

import (
	"bytes"
	"os"
	"testing"
)

func TestFormat(t *testing.T) {
	in, err := os.ReadFile("testdata/format.in")
	if err != nil {
		t.Fatal(err)
	}
	out, err := Format("format.in", in)
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "format.out", out)
	again, err := Format("format.out", out)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again, out) {
		t.Errorf("formatting again changes the file:\n%s", again)
	}
}
