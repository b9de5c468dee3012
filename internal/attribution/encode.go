package attribution

import (
	"bufio"
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"
	"unicode/utf8"
)

// An encoder writes a document as [json.Encoder] with an indentation of two spaces
// does, without holding it in memory: a document has megabytes.
type encoder struct {
	w     *bufio.Writer
	num   [24]byte
	depth int
}

// value writes what documents are made of: structs, slices, strings, integers and
// booleans.
func (e *encoder) value(v reflect.Value) error {
	switch v.Kind() {
	case reflect.Struct:
		return e.list('{', '}', v.NumField(), func(i int) error {
			e.string(v.Type().Field(i).Tag.Get("json"))
			e.w.WriteString(": ")
			return e.value(v.Field(i))
		})
	case reflect.Slice:
		return e.list('[', ']', v.Len(), func(i int) error { return e.value(v.Index(i)) })
	case reflect.String:
		return e.string(v.String())
	case reflect.Bool:
		e.w.Write(strconv.AppendBool(e.num[:0], v.Bool()))
	case reflect.Int:
		e.w.Write(strconv.AppendInt(e.num[:0], v.Int(), 10))
	case reflect.Uint64:
		e.w.Write(strconv.AppendUint(e.num[:0], v.Uint(), 10))
	default:
		panic("attribution: documents have no " + v.Kind().String())
	}
	return nil
}

// list writes n members, each on a line of its own.
func (e *encoder) list(open, closing byte, n int, member func(int) error) error {
	e.w.WriteByte(open)
	e.depth++
	for i := range n {
		if i > 0 {
			e.w.WriteByte(',')
		}
		e.newline()
		if err := member(i); err != nil {
			return err
		}
	}
	e.depth--
	if n > 0 {
		e.newline()
	}
	return e.w.WriteByte(closing) // errors of the writer stay
}

func (e *encoder) newline() {
	e.w.WriteByte('\n')
	for range e.depth {
		e.w.WriteString("  ")
	}
}

// string writes a string; encoding/json does it where something has to be escaped.
func (e *encoder) string(s string) error {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf || c == 0x7f {
			return e.escaped(s)
		}
	}
	e.w.WriteByte('"')
	e.w.WriteString(s)
	return e.w.WriteByte('"')
}

func (e *encoder) escaped(s string) error {
	var quoted bytes.Buffer
	enc := json.NewEncoder(&quoted)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		return err
	}
	_, err := e.w.Write(bytes.TrimSuffix(quoted.Bytes(), []byte("\n")))
	return err
}
