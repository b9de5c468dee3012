package attribution

import (
	"encoding/json"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/invopop/jsonschema"
)

// TestSchema generates docs/attribution.schema.json from the types and their
// comments; -update writes it.
func TestSchema(t *testing.T) {
	r := jsonschema.Reflector{Anonymous: true, Mapper: mapScalar}
	if err := r.AddGoComments("bulkhead/internal/attribution", "."); err != nil {
		t.Fatal(err)
	}
	s := r.Reflect(&Document{})
	name, _ := s.Definitions["Document"].Properties.Get("schema")
	name.Const = Schema
	s.Title = "Attribution document"
	got, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	checkGolden(t, filepath.Join("..", "..", "docs", "attribution.schema.json"), append(got, '\n'))
}

// mapScalar says what Go's types do not: the values of enumerations, and that
// counts and offsets are not negative.
func mapScalar(t reflect.Type) *jsonschema.Schema {
	switch t {
	case reflect.TypeFor[ABI]():
		return &jsonschema.Schema{Type: "string", Enum: values(abis)}
	case reflect.TypeFor[Evidence]():
		return &jsonschema.Schema{Type: "string", Enum: values(kinds)}
	case reflect.TypeFor[uint64]():
		return &jsonschema.Schema{Type: "integer", Minimum: "0"}
	}
	return nil
}

func values[T any](s []T) []any {
	var out []any
	for _, v := range s {
		out = append(out, v)
	}
	return out
}
