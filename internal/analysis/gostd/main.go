// Gostd writes gostd.txt: the packages of Go's standard library with what they import and the methods of the interfaces
// that their code names. It merges what the file says already, so that running it under several releases of Go gives a
// file that serves them all.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"log"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

type listed struct {
	ImportPath, Dir  string
	GoFiles, Imports []string
	ImportMap        map[string]string
}

// facts are the lines of a package: "import PATH", "methods NAME...", the methods of an interface in their order, "calls
// FUNCTION NAME", a method that a function calls through an interface, and "gives funcs" where exported functions return
// func values. The empty package has the releases that were read.
type facts map[string]map[string]bool

func (f facts) add(pkg, line string) {
	if f[pkg] == nil {
		f[pkg] = map[string]bool{}
	}
	f[pkg][line] = true
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: gostd FILE")
	}
	all := facts{}
	read(os.Args[1], all)
	version, err := exec.Command("go", "env", "GOVERSION").Output()
	if err != nil {
		log.Fatal(err)
	}
	release := strings.SplitN(strings.TrimSpace(string(version)), ".", 3)
	all.add("releases", "release "+strings.Join(release[:2], "."))
	cmd := exec.Command("go", "list", "-e", "-json", "std")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	out, err := cmd.Output()
	if err != nil {
		log.Fatal(err)
	}
	source := importer.ForCompiler(token.NewFileSet(), "source", nil)
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			log.Fatal(err)
		}
		for _, path := range p.Imports {
			if path != "unsafe" && path != "C" {
				all.add(p.ImportPath, "import "+path)
			}
		}
		interfaces(&p, source, all)
	}
	write(os.Args[1], all)
}

// interfaces adds the interface types of a package's source, wherever they are.
func interfaces(p *listed, source types.Importer, all facts) {
	files := token.NewFileSet()
	var parsed []*ast.File
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(files, filepath.Join(p.Dir, name), nil, 0)
		if err != nil {
			log.Fatal(err)
		}
		parsed = append(parsed, f)
	}
	info := &types.Info{Types: map[ast.Expr]types.TypeAndValue{}, Defs: map[*ast.Ident]types.Object{}, Selections: map[*ast.SelectorExpr]*types.Selection{}}
	conf := types.Config{Importer: mapped{source, p.ImportMap}, Error: func(error) {}, FakeImportC: true}
	conf.Check(p.ImportPath, files, parsed, info)
	for _, tv := range info.Types {
		addInterface(p.ImportPath, tv.Type, all)
	}
	for _, s := range info.Selections { // methods may be those of embedded interfaces
		for t, i := s.Recv(), 0; i < len(s.Index())-1; i++ {
			if p, ok := t.Underlying().(*types.Pointer); ok {
				t = p.Elem()
			}
			t = t.Underlying().(*types.Struct).Field(s.Index()[i]).Type()
			addInterface(p.ImportPath, t, all)
		}
	}
	for _, f := range parsed {
		for _, decl := range f.Decls {
			if fn, ok := decl.(*ast.FuncDecl); ok && fn.Body != nil {
				addCalls(p.ImportPath, fn, info, all)
			}
		}
	}
	for _, def := range info.Defs {
		if def != nil {
			addGiver(p.ImportPath, def, all)
			addInterface(p.ImportPath, def.Type(), all)
		}
	}
}

// addCalls notes the methods that a function calls through interfaces, and those of which it makes func values.
func addCalls(pkg string, fn *ast.FuncDecl, info *types.Info, all facts) {
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		selected, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		s := info.Selections[selected]
		if s == nil || s.Kind() == types.FieldVal {
			return true
		}
		if m, ok := s.Obj().(*types.Func); ok && types.IsInterface(m.Signature().Recv().Type()) {
			all.add(pkg, "calls "+linkName(fn)+" "+m.Name())
		}
		return true
	})
}

// linkName is a function's name as the linker writes it, without the package.
func linkName(fn *ast.FuncDecl) string {
	if fn.Recv == nil {
		return fn.Name.Name
	}
	typ, pointer := fn.Recv.List[0].Type, false
	if star, ok := typ.(*ast.StarExpr); ok {
		typ, pointer = star.X, true
	}
	switch generic := typ.(type) {
	case *ast.IndexExpr:
		typ = generic.X
	case *ast.IndexListExpr:
		typ = generic.X
	}
	name := typ.(*ast.Ident).Name
	if pointer {
		name = "(*" + name + ")"
	}
	return name + "." + fn.Name.Name
}

// addGiver notes a package whose exported functions and methods return func values, or which has such variables.
func addGiver(pkg string, o types.Object, all facts) {
	if !o.Exported() {
		return
	}
	switch t := o.Type().(type) {
	case *types.Signature:
		for r := range t.Results().Variables() {
			if _, ok := r.Type().Underlying().(*types.Signature); ok {
				all.add(pkg, "gives funcs")
			}
		}
	default:
		if _, ok := t.Underlying().(*types.Signature); ok {
			if _, ok := o.(*types.Var); ok && !o.(*types.Var).IsField() && o.Parent() == o.Pkg().Scope() {
				all.add(pkg, "gives funcs")
			}
		}
	}
}

type mapped struct {
	types.Importer
	paths map[string]string
}

func (m mapped) Import(path string) (*types.Package, error) {
	if to, ok := m.paths[path]; ok {
		path = to
	}
	return m.Importer.(types.ImporterFrom).ImportFrom(path, os.Getenv("GOROOT"), 0)
}

func addInterface(pkg string, t types.Type, all facts) {
	if t == nil {
		return
	}
	i, ok := t.Underlying().(*types.Interface)
	if !ok || i.NumMethods() == 0 {
		return
	}
	var names []string
	for m := range i.Methods() {
		names = append(names, m.Name())
	}
	slices.Sort(names)
	all.add(pkg, "methods "+strings.Join(names, " "))
}

func read(path string, all facts) {
	data, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		log.Fatal(err)
	}
	pkg := ""
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, "\n")
		switch {
		case strings.HasPrefix(line, "\t"):
			all.add(pkg, line[1:])
		case line != "" && !strings.HasPrefix(line, "#"):
			pkg = line
		}
	}
}

func write(path string, all facts) {
	var b bytes.Buffer
	fmt.Fprintln(&b, "# Packages of Go's standard library, Go 1.18 to 1.26: what they import, the methods of the interfaces")
	fmt.Fprintln(&b, "# that their code names, and whether they give func values to their users. Made by go run ./internal/analysis/gostd internal/analysis/gostd.txt")
	for _, pkg := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintln(&b, pkg)
		for _, line := range slices.Sorted(maps.Keys(all[pkg])) {
			fmt.Fprintln(&b, "\t"+line)
		}
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		log.Fatal(err)
	}
}
