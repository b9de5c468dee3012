package report

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"html/template"
	"io"
	"slices"
	"strings"

	"bulkhead/internal/attribution"
	"bulkhead/internal/stats"
	"bulkhead/internal/syscalls"
)

//go:embed page.html
var pageText string

// page takes a title, and the programs as JSON for the script in it.
var page = template.Must(template.New("page").Parse(pageText))

// The types below are what the script of page.html reads.

type pageProgram struct {
	Path         string            `json:"path"`
	BuildID      string            `json:"build_id"`
	Arch         attribution.ABI   `json:"arch"`
	Calls        uint64            `json:"calls"`
	Union        int               `json:"union"`
	Privilege    int               `json:"privilege"` // of the union
	Reduction    float64           `json:"reduction"`
	Compartments []pageCompartment `json:"compartments"` // the most privileged first
	CallsBy      []pageCall        `json:"calls_by"`     // the most dangerous first
	Losses       []string          `json:"losses"`
}

type pageCompartment struct {
	Name      string   `json:"name"`
	Conduit   bool     `json:"conduit"`
	Objects   []string `json:"objects"` // paths
	Kinds     int      `json:"kinds"`
	Own       int      `json:"own"`
	Privilege int      `json:"privilege"`
	Calls     uint64   `json:"calls"`
}

type pageCall struct {
	Name   string    `json:"name"`
	Danger int       `json:"danger"`
	Reason string    `json:"reason"`
	By     []pageUse `json:"by"`
}

type pageUse struct {
	Compartment int                    `json:"c"` // index
	Count       uint64                 `json:"n"`
	Seen        bool                   `json:"seen"`
	Evidence    []attribution.Evidence `json:"evidence"`
	Via         []string               `json:"via"`
	Stack       []pageFrame            `json:"stack"` // innermost first
}

type pageFrame struct {
	Object   string `json:"in"`
	Function string `json:"f"`
	Offset   uint64 `json:"o"`
}

// writePage writes the document as one HTML file that loads nothing.
func writePage(w io.Writer, d *attribution.Document) error {
	programs := []pageProgram{}
	var names []string
	for i, measured := range stats.Of(d) {
		programs = append(programs, pageOf(&d.Programs[i], &measured))
		names = append(names, attribution.ObjectName(measured.Path))
	}
	data, err := json.Marshal(programs) // escapes <, > and &, so that no name can end the script
	if err != nil {
		return err
	}
	return page.Execute(w, map[string]any{"Title": strings.Join(names, ", "), "Data": template.JS(data)})
}

func pageOf(p *attribution.Program, m *stats.Program) pageProgram {
	model := modelOf(p)
	out := pageProgram{
		Path: p.Path, BuildID: p.BuildID, Arch: p.Arch, Calls: model.calls, Union: len(m.Union.Syscalls),
		Privilege: m.Union.Privilege, Reduction: m.Reduction, Compartments: []pageCompartment{}, CallsBy: []pageCall{},
		Losses: append([]string{}, losses(&model)...),
	}
	calls := make(map[string]*pageCall)
	for i, c := range m.Compartments {
		out.Compartments = append(out.Compartments, pageCompartment{
			Name: c.Name, Conduit: c.Conduit, Objects: objectsOf(p, c.Name), Kinds: len(c.Syscalls), Own: len(c.Own),
			Privilege: c.Privilege, Calls: c.Calls,
		})
		for _, s := range p.Compartment(c.Name).Syscalls {
			label := s.Label(p.Arch)
			if calls[label] == nil {
				calls[label] = &pageCall{Name: label, Danger: syscalls.Danger(s.Name), Reason: syscalls.DangerReason(s.Name)}
			}
			calls[label].By = append(calls[label].By, useOf(i, &s))
		}
	}
	for _, c := range calls {
		out.CallsBy = append(out.CallsBy, *c)
	}
	slices.SortFunc(out.CallsBy, func(a, b pageCall) int {
		return cmp.Or(cmp.Or(b.Danger, syscalls.Critical)-cmp.Or(a.Danger, syscalls.Critical), strings.Compare(a.Name, b.Name))
	})
	return out
}

func useOf(compartment int, s *attribution.Syscall) pageUse {
	u := pageUse{
		Compartment: compartment, Count: s.Count, Seen: slices.Contains(s.Evidence, attribution.Traced), Evidence: s.Evidence,
		Via: s.Via, Stack: []pageFrame{},
	}
	for _, f := range s.Example {
		u.Stack = append(u.Stack, pageFrame{f.Object, f.Function, f.Offset})
	}
	return u
}

func objectsOf(p *attribution.Program, compartment string) []string {
	paths := []string{}
	for _, o := range p.Objects {
		if o.Compartment == compartment {
			paths = append(paths, o.Path)
		}
	}
	return paths
}
