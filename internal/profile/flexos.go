package profile

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"bulkhead/internal/policy"
	"bulkhead/internal/syscalls"
)

// kraft is what kraft.yaml of FlexOS (specification 0.6) says about compartments.
type kraft struct {
	Specification string `yaml:"specification"`
	Name          string `yaml:"name"`
	Compartments  []struct {
		Name    string `yaml:"name"`
		Default bool   `yaml:"default"`
	} `yaml:"compartments"`
	Libraries yaml.Node `yaml:"libraries"`
}

// ReadFlexOS makes the compartments of FlexOS' kraft.yaml those of a policy: the libraries of each are its patterns. The
// default compartment has the program. Nothing is allowed yet: FlexOS divides memory, not system calls.
func ReadFlexOS(data []byte, program string) (*policy.Policy, error) {
	var in kraft
	if err := yaml.Unmarshal(data, &in); err != nil {
		return nil, fmt.Errorf("not a kraft.yaml: %w", err)
	}
	if len(in.Compartments) == 0 {
		return nil, errors.New("not a kraft.yaml of FlexOS: there are no compartments")
	}
	p, err := onePolicy(program, syscalls.AMD64, policy.Audit, nil)
	if err != nil {
		return nil, err
	}
	p.OnExec = policy.DenyExec
	libraries, err := in.libraries()
	if err != nil {
		return nil, err
	}
	var list []policy.Compartment
	for _, c := range in.Compartments {
		match := []string{}
		if c.Default {
			match = append(match, program)
		}
		for _, library := range libraries[c.Name] {
			match = append(match, "lib"+library+".so*", "lib"+library+"-*.so*", library)
		}
		if len(match) == 0 {
			return nil, fmt.Errorf("compartment %q has no library", c.Name)
		}
		delete(libraries, c.Name)
		list = append(list, policy.Compartment{Name: c.Name, Match: match, Allow: policy.List{Calls: []policy.Call{}, Line: 1}})
	}
	for name := range libraries {
		return nil, fmt.Errorf("library %s is in the compartment %q, which is not listed", libraries[name][0], name)
	}
	p.Programs[0].Compartments = append(list, p.Programs[0].Compartments...)
	text, err := p.Text()
	if err != nil {
		return nil, err
	}
	return policy.Parse("the imported policy", text)
}

// libraries lists the libraries of each compartment, in the order of the file. Those without one are in the default.
func (k *kraft) libraries() (map[string][]string, error) {
	fallback := k.Compartments[0].Name
	if i := slices.IndexFunc(k.Compartments, func(c struct {
		Name    string `yaml:"name"`
		Default bool   `yaml:"default"`
	}) bool {
		return c.Default
	}); i >= 0 {
		fallback = k.Compartments[i].Name
	}
	out := map[string][]string{}
	for i := 0; i+1 < len(k.Libraries.Content); i += 2 {
		name := k.Libraries.Content[i].Value
		var library struct {
			Compartment string `yaml:"compartment"`
		}
		if k.Libraries.Content[i+1].Kind == yaml.MappingNode {
			if err := k.Libraries.Content[i+1].Decode(&library); err != nil {
				return nil, fmt.Errorf("library %s: %w", name, err)
			}
		}
		if strings.ContainsAny(name, "*?[]\\/") {
			return nil, fmt.Errorf("library %q: not a name", name)
		}
		if library.Compartment == "" {
			library.Compartment = fallback
		}
		out[library.Compartment] = append(out[library.Compartment], name)
	}
	return out, nil
}
