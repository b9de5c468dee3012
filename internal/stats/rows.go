package stats

import "strings"

// CompartmentRow is one row for each compartment (docs/dataframe.md). What ends in program_ is of its program as a whole.
type CompartmentRow struct {
	Program     string  `parquet:"program"`
	BuildID     string  `parquet:"build_id"`
	Arch        string  `parquet:"arch"`
	Compartment string  `parquet:"compartment"`
	Conduit     bool    `parquet:"conduit"`
	Kinds       int32   `parquet:"kinds"`     // distinct system calls
	OwnKinds    int32   `parquet:"own_kinds"` // those that no other compartment makes
	Calls       uint64  `parquet:"calls"`
	Danger1     int32   `parquet:"danger_1"` // kinds of danger class 1
	Danger2     int32   `parquet:"danger_2"`
	Danger3     int32   `parquet:"danger_3"`
	Privilege   int32   `parquet:"privilege"`
	Reduction   float64 `parquet:"reduction"` // of this compartment against one filter, 0 to 1
	Syscalls    string  `parquet:"syscalls"`  // labels, joined by semicolons

	ProgramKinds      int32   `parquet:"program_kinds"`
	ProgramUnion      int32   `parquet:"program_union_privilege"`
	ProgramPrivilege  int32   `parquet:"program_privilege"`
	ProgramReduction  float64 `parquet:"program_reduction"`
	ProgramSeparation float64 `parquet:"program_separation"`
	ProgramComplete   bool    `parquet:"program_complete"`
}

// CompartmentRows returns the rows of the compartments of all programs.
func CompartmentRows(programs []Program) []CompartmentRow {
	rows := []CompartmentRow{}
	for i := range programs {
		p := &programs[i]
		for _, c := range p.Compartments {
			rows = append(rows, CompartmentRow{
				Program: p.Path, BuildID: p.BuildID, Arch: string(p.Arch), Compartment: c.Name, Conduit: c.Conduit,
				Kinds: int32(len(c.Syscalls)), OwnKinds: int32(len(c.Own)), Calls: c.Calls,
				Danger1: int32(c.ByDanger[0]), Danger2: int32(c.ByDanger[1]), Danger3: int32(c.ByDanger[2]),
				Privilege: int32(c.Privilege), Reduction: 1 - float64(c.Privilege)/float64(p.Union.Privilege),
				Syscalls: strings.Join(c.Syscalls, ";"), ProgramKinds: int32(len(p.Union.Syscalls)),
				ProgramUnion: int32(p.Union.Privilege), ProgramPrivilege: int32(p.Privilege),
				ProgramReduction: p.Reduction, ProgramSeparation: p.Separation(), ProgramComplete: p.Complete,
			})
		}
	}
	return rows
}

// PairRow is one row for each two compartments with common calls.
type PairRow struct {
	Program string  `parquet:"program"`
	BuildID string  `parquet:"build_id"`
	A       string  `parquet:"a"`
	B       string  `parquet:"b"`
	Common  int32   `parquet:"common"`
	Overlap float64 `parquet:"overlap"`
	Calls   string  `parquet:"syscalls"` // the common ones, joined by semicolons
}

// PairRows returns the overlaps of all programs.
func PairRows(programs []Program) []PairRow {
	rows := []PairRow{}
	for i := range programs {
		p := &programs[i]
		for _, pair := range p.Pairs {
			rows = append(rows, PairRow{
				p.Path, p.BuildID, pair.A, pair.B, int32(len(pair.Common)), pair.Overlap, strings.Join(pair.Common, ";"),
			})
		}
	}
	return rows
}

// SharedRow is one row for each call that several compartments make.
type SharedRow struct {
	Program      string `parquet:"program"`
	BuildID      string `parquet:"build_id"`
	Syscall      string `parquet:"syscall"`
	Danger       int32  `parquet:"danger"`
	Cost         int32  `parquet:"cost"`         // danger × compartments beyond the first
	Compartments string `parquet:"compartments"` // joined by semicolons
}

// SharedRows returns the shared calls of all programs.
func SharedRows(programs []Program) []SharedRow {
	rows := []SharedRow{}
	for i := range programs {
		p := &programs[i]
		for _, s := range p.Shared {
			rows = append(rows, SharedRow{
				p.Path, p.BuildID, s.Syscall, int32(s.Weight), int32(s.Cost()), strings.Join(s.Compartments, ";"),
			})
		}
	}
	return rows
}
