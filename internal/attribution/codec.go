package attribution

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"

	"bulkhead/internal/filecache"
)

// maxDocument bounds what Read takes into memory, in bytes. A trace of a large
// server is below 10 MB.
const maxDocument = 512 << 20

// Read reads and validates one document. Unknown fields, null lists, other
// schema versions and anything after the document are errors.
func Read(r io.Reader) (*Document, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("read attribution document: %w", err)
	}
	if len(data) > maxDocument {
		return nil, fmt.Errorf("read attribution document: larger than %d MB", maxDocument>>20)
	}
	d, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("read attribution document: %w", err)
	}
	return d, nil
}

// ReadFile reads and validates the document in a file.
func ReadFile(path string) (*Document, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	d, err := Read(f)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return d, nil
}

func decode(data []byte) (*Document, error) {
	// The version first: a newer document has fields that this one must not
	// complain about.
	var version struct {
		Schema *string `json:"schema"`
	}
	if err := json.Unmarshal(data, &version); err != nil {
		return nil, positioned(err, data)
	}
	if version.Schema == nil {
		return nil, errors.New(`not an attribution document: there is no "schema"`)
	}
	if *version.Schema != Schema {
		return nil, schemaError(*version.Schema)
	}
	d := new(Document)
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(d); err != nil {
		return nil, positioned(err, data)
	}
	if err := d.Validate(); err != nil {
		return nil, err
	}
	d.canonicalize()
	return d, nil
}

// positioned adds the line to an error of the JSON decoder.
func positioned(err error, data []byte) error {
	var offset int64
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &kind):
		offset = kind.Offset
	default:
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	line := 1 + bytes.Count(data[:min(offset, int64(len(data)))], []byte("\n"))
	return fmt.Errorf("line %d: %s", line, strings.TrimPrefix(err.Error(), "json: "))
}

func schemaError(got string) error {
	switch {
	case strings.HasPrefix(got, "bulkhead.attribution/"):
		return fmt.Errorf("schema %q: this bulkhead reads %s only", got, Schema)
	default:
		return fmt.Errorf("schema %q: not an attribution document (%s)", got, Schema)
	}
}

// Write writes the document: sorted, indented by two spaces, with a final line
// feed. Equal documents give equal bytes.
func (d *Document) Write(w io.Writer) error {
	d.canonicalize()
	if err := d.Validate(); err != nil {
		return fmt.Errorf("write attribution document: %w", err)
	}
	e := &encoder{w: bufio.NewWriterSize(w, 64<<10)}
	err := e.value(reflect.ValueOf(d).Elem())
	if err == nil {
		e.w.WriteByte('\n')
		err = e.w.Flush()
	}
	if err != nil {
		return fmt.Errorf("write attribution document: %w", err)
	}
	return nil
}

// WriteFile writes the document to a file that is complete or not there.
func (d *Document) WriteFile(path string) error {
	return filecache.Replace(path, d.Write)
}
