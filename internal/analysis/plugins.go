package analysis

import (
	_ "embed"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/pelletier/go-toml/v2"

	"bulkhead/internal/dso"
)

//go:embed plugins.toml
var builtinPlugins []byte

// A Plugin says which libraries an object opens by names that are not in its
// code.
type Plugin struct {
	Name   string   `toml:"name"`   // what they are, for people
	Object string   `toml:"object"` // file name pattern of the object that opens them
	String string   `toml:"string"` // constant that the code that opens them names
	Load   []string `toml:"load"`   // file names, or patterns below the library directories
	// Symbols are patterns of the names that are looked up in them; nil stands for
	// all.
	Symbols []string `toml:"symbols"`
}

// Plugins is a list of what is known of plug-ins.
type Plugins []Plugin

// LoadPlugins returns the built-in list and the user's, from plugins/*.toml in
// the folder dir; "" means Bulkhead's folder in the user's configuration.
func LoadPlugins(dir string) (Plugins, error) {
	list, err := parsePlugins("plugins.toml", builtinPlugins)
	if err != nil {
		return nil, err
	}
	if dir == "" {
		config, err := os.UserConfigDir()
		if err != nil {
			return list, nil // no home, so no configuration
		}
		dir = filepath.Join(config, "bulkhead")
	}
	files, _ := filepath.Glob(filepath.Join(dir, "plugins", "*.toml"))
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, fmt.Errorf("read plug-ins: %w", err)
		}
		more, err := parsePlugins(name, data)
		if err != nil {
			return nil, err
		}
		list = append(list, more...)
	}
	return list, nil
}

func parsePlugins(name string, data []byte) (Plugins, error) {
	var file struct {
		Plugin Plugins `toml:"plugin"`
	}
	d := toml.NewDecoder(strings.NewReader(string(data)))
	d.DisallowUnknownFields()
	if err := d.Decode(&file); err != nil {
		return nil, fmt.Errorf("plug-ins in %s: %w", name, err)
	}
	for i, p := range file.Plugin {
		if _, err := path.Match(p.Object, ""); err != nil || p.Object == "" || p.String == "" || len(p.Load) == 0 {
			return nil, fmt.Errorf("plug-ins in %s: entry %d (%q) needs object, string and load", name, i+1, p.Name)
		}
	}
	return file.Plugin, nil
}

// triggers are the constants that summaries have to note.
func (p Plugins) triggers() []string {
	out := slices.Clone(serviceFunctions)
	for _, x := range p {
		out = append(out, x.String)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// A pluginLoad is a library that a plug-in loader opens.
type pluginLoad struct {
	name    string
	symbols []string // patterns; nil stands for all
}

// loads lists the libraries that an object opens when its code reaches a
// constant.
func (p Plugins) loads(o *dso.Object, text string, set *asker) []pluginLoad {
	var out []pluginLoad
	for _, x := range p {
		if x.String != text {
			continue
		}
		if ok, _ := path.Match(x.Object, o.Name); !ok {
			if ok, _ := path.Match(x.Object, o.Soname); !ok {
				continue
			}
		}
		for _, pattern := range x.Load {
			for _, name := range expandLoad(pattern, set) {
				out = append(out, pluginLoad{name, x.Symbols})
			}
		}
	}
	return out
}

func expandLoad(load string, set *asker) []string {
	if strings.Contains(load, "{nsswitch}") {
		var out []string
		for _, service := range services(set.ReadConfig("/etc/nsswitch.conf")) {
			out = append(out, strings.ReplaceAll(load, "{nsswitch}", service))
		}
		return out
	}
	if strings.ContainsAny(load, "*?[") {
		return set.Glob(load)
	}
	return []string{load}
}

// nssDefaults are the services of the databases that an nsswitch.conf does not
// list (nss/nss_database.c, per_database_defaults); all others have "files". Those
// of the _compat databases are asked for by the service compat alone.
var nssDefaults = map[string]string{
	"hosts": "dns", "networks": "dns", "publickey": "nis nisplus",
	"passwd_compat": "nis", "group_compat": "nis", "shadow_compat": "nis",
}

// services lists the services that glibc opens under an nsswitch.conf, nil if there
// is none. It reads the file as nss/nss_database.c and nss/nss_action_parse.c do:
// the colon may be missing, an action may follow its service without a space, and
// a comment is a line whose database is unknown.
func services(config []byte) []string {
	out := []string{"files"}
	add := func(names ...string) {
		for _, name := range names {
			if !slices.Contains(out, name) && !strings.Contains(name, "/") {
				out = append(out, name)
			}
		}
	}
	listed := map[string]bool{}
	for line := range strings.Lines(string(config)) {
		line = strings.TrimSpace(line)
		end := strings.IndexFunc(line, func(c rune) bool { return c == ':' || unicode.IsSpace(c) })
		if end <= 0 || line[0] == '#' {
			continue
		}
		listed[line[:end]] = true
		add(actions(strings.TrimLeft(line[end:], ": \t\v\f\r"))...)
	}
	for _, database := range slices.Sorted(maps.Keys(nssDefaults)) {
		if !listed[database] && (!strings.HasSuffix(database, "_compat") || slices.Contains(out, "compat")) {
			add(strings.Fields(nssDefaults[database])...)
		}
	}
	return out
}

// actions lists the services of one database: SERVICE [STATUS=ACTION ...] ...
func actions(list string) []string {
	var out []string
	for {
		list = strings.TrimSpace(list)
		end := strings.IndexFunc(list, func(c rune) bool { return c == '[' || unicode.IsSpace(c) })
		if end < 0 {
			end = len(list)
		}
		if end == 0 {
			return out
		}
		out = append(out, list[:end])
		list = strings.TrimSpace(list[end:])
		if strings.HasPrefix(list, "[") {
			_, list, _ = strings.Cut(list, "]")
		}
	}
}
