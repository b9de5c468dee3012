package profile

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"bulkhead/internal/attribution"
	"bulkhead/internal/policy"
	"bulkhead/internal/syscalls"
)

// Names of the properties that a component gets.
const (
	propertySyscall     = "bulkhead:syscall"     // one for each call that the compartment may make
	propertyCompartment = "bulkhead:compartment" // where the component is in a compartment of another name
)

// component is what a bill of materials is given about one file.
type component struct {
	name, path, buildID, compartment string
	syscalls                         []string // labels, sorted
}

// writeCycloneDX writes a bill of materials of the policy's compartments, or, with Into, adds to the components that are
// there: those with the file's name or path get the properties, a file that no component has becomes one.
func writeCycloneDX(w io.Writer, p *policy.Policy, o Options) error {
	bom := map[string]any{"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": []any{}}
	if o.Into != nil {
		clear(bom)
		decoder := json.NewDecoder(bytes.NewReader(o.Into))
		decoder.UseNumber()
		if err := decoder.Decode(&bom); err != nil {
			return fmt.Errorf("not a CycloneDX bill of materials: %w", err)
		}
		if bom["bomFormat"] != "CycloneDX" {
			return errors.New(`not a CycloneDX bill of materials: bomFormat is not "CycloneDX"`)
		}
	}
	list, _ := bom["components"].([]any)
	for _, c := range components(p, o.Document) {
		at := slices.IndexFunc(list, func(entry any) bool { return c.is(entry) })
		if at < 0 {
			list = append(list, c.entry())
			at = len(list) - 1
		}
		c.describe(list[at].(map[string]any))
	}
	bom["components"] = list
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(bom)
}

// components lists the compartments of the policy; with the document that it came from, the objects in them.
func components(p *policy.Policy, d *attribution.Document) []component {
	var out []component
	for i := range p.Programs {
		rules, _ := p.Rules(p.Programs[i].Path)
		if d == nil {
			for id := policy.ID(1); int(id) < rules.Len(); id++ {
				out = append(out, component{name: rules.Name(id), compartment: rules.Name(id), syscalls: labels(rules, id)})
			}
			continue
		}
		for j := range d.Programs {
			if d.Programs[j].Path != p.Programs[i].Path {
				continue
			}
			for _, object := range d.Programs[j].Objects {
				if id := rules.Compartment(object.Path); id != policy.Unknown && strings.HasPrefix(object.Path, "/") {
					out = append(out, component{object.Name, object.Path, object.BuildID, rules.Name(id), labels(rules, id)})
				}
			}
		}
	}
	return unite(out)
}

// unite joins the entries of one file, which several programs load.
func unite(list []component) []component {
	var out []component
	for _, c := range list {
		at := slices.IndexFunc(out, func(o component) bool { return o.name == c.name && o.path == c.path && o.buildID == c.buildID })
		if at < 0 {
			out = append(out, c)
			continue
		}
		out[at].syscalls = append(out[at].syscalls, c.syscalls...)
		slices.Sort(out[at].syscalls)
		out[at].syscalls = slices.Compact(out[at].syscalls)
	}
	return out
}

func labels(rules *policy.Rules, id policy.ID) []string {
	var out []string
	for _, abi := range rules.ABIs() {
		for nr := range syscalls.All(abi) {
			if rules.Allows(id, abi, nr) {
				out = append(out, rules.Label(abi, nr))
			}
		}
	}
	slices.Sort(out)
	return out
}

// is reports whether an entry is the file: it has its name, or says that the file's path is evidence of it.
func (c *component) is(entry any) bool {
	e, ok := entry.(map[string]any)
	if !ok {
		return false
	}
	if c.path == "" || e["name"] == c.name || e["name"] == c.path {
		return e["name"] == c.name || e["name"] == c.path
	}
	for _, property := range listOf(e["properties"]) {
		name, _ := property["name"].(string)
		if strings.HasPrefix(name, "syft:location:") && strings.HasSuffix(name, ":path") && property["value"] == c.path {
			return true
		}
	}
	evidence, _ := e["evidence"].(map[string]any)
	return slices.ContainsFunc(listOf(evidence["occurrences"]), func(o map[string]any) bool { return o["location"] == c.path })
}

func listOf(v any) []map[string]any {
	var out []map[string]any
	list, _ := v.([]any)
	for _, item := range list {
		if m, ok := item.(map[string]any); ok {
			out = append(out, m)
		}
	}
	return out
}

func (c *component) entry() map[string]any {
	kind := "library"
	if !strings.Contains(path.Base(c.name), ".so") {
		kind = "application"
	}
	e := map[string]any{"type": kind, "name": c.name}
	if c.path != "" {
		e["evidence"] = map[string]any{"occurrences": []any{map[string]any{"location": c.path}}}
	}
	if c.buildID != "" {
		e["version"] = "build-id:" + c.buildID
	}
	return e
}

// describe sets the properties of a component; ours of before go.
func (c *component) describe(e map[string]any) {
	properties := []any{}
	for _, property := range listOf(e["properties"]) {
		if name, _ := property["name"].(string); name != propertySyscall && name != propertyCompartment {
			properties = append(properties, property)
		}
	}
	add := func(name, value string) {
		properties = append(properties, map[string]any{"name": name, "value": value})
	}
	if c.compartment != c.name {
		add(propertyCompartment, c.compartment)
	}
	for _, s := range c.syscalls {
		add(propertySyscall, s)
	}
	e["properties"] = properties
}
