package report

import (
	"encoding/csv"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"

	"bulkhead/internal/attribution"
	"bulkhead/internal/syscalls"
)

// CallRow is one row of a document's CSV and Parquet forms: one for each (program, compartment, system call, via,
// evidence). The order of the fields is that of the columns. Both forms are documented in docs/dataframe.md; a column is
// never renamed, moved or given another meaning, new ones come behind the last.
type CallRow struct {
	Program     string `parquet:"program"`     // the path of the file that was executed
	BuildID     string `parquet:"build_id"`    // hexadecimal, empty if unknown
	Arch        string `parquet:"arch"`        // the program's own ABI
	Compartment string `parquet:"compartment"` // who is charged with the call
	Conduit     bool   `parquet:"conduit"`     // the compartment is the C library or the loader, for itself
	Via         string `parquet:"via"`         // the conduit function that the compartment called, or empty
	ABI         string `parquet:"abi"`         // the table that nr belongs to
	Syscall     string `parquet:"syscall"`     // the kernel's name, or syscall_N
	NR          int32  `parquet:"nr"`          // with bit 30 set for x32
	Danger      int32  `parquet:"danger"`      // 1 to 3; 0 for a call without a name
	Evidence    string `parquet:"evidence"`    // static or traced
	// Count is the number of calls seen, on the first traced row of each system call of a compartment. The others have
	// null: documents do not split counts by via. So the sum over any set of whole compartments or calls is right.
	Count    *uint64  `parquet:"count,optional"`
	Share    *float64 `parquet:"share,optional"` // count as a part of the program's calls, 0 to 1
	Complete bool     `parquet:"complete"`       // nothing of the program was lost
}

// CallRows returns the rows of a document: programs in its order, what is called most first.
func CallRows(d *attribution.Document) []CallRow {
	rows := []CallRow{}
	for i := range d.Programs {
		p := modelOf(&d.Programs[i])
		for _, c := range p.compartments {
			for _, r := range c.rows {
				rows = append(rows, callRows(&p, &c, r)...)
			}
		}
	}
	return rows
}

// callRows returns the rows of one system call of one compartment.
func callRows(p *program, c *compartment, r row) []CallRow {
	vias := r.Via
	if len(vias) == 0 {
		vias = []string{""}
	}
	var rows []CallRow
	for _, via := range vias {
		for _, e := range r.Evidence {
			rows = append(rows, CallRow{
				Program: p.Path, BuildID: p.BuildID, Arch: string(p.Arch), Compartment: c.name, Conduit: c.conduit, Via: via,
				ABI: string(r.ABI), Syscall: r.Name, NR: int32(r.NR), Danger: int32(syscalls.Danger(r.Name)),
				Evidence: string(e), Complete: p.Complete,
			})
		}
	}
	if i := slices.IndexFunc(rows, func(r CallRow) bool { return r.Evidence == string(attribution.Traced) }); i >= 0 {
		rows[i].Count, rows[i].Share = &r.Count, &r.share
	}
	return rows
}

// FrameRow is one frame of the example stack of a system call of a compartment (docs/dataframe.md).
type FrameRow struct {
	Program     string `parquet:"program"`
	Compartment string `parquet:"compartment"`
	ABI         string `parquet:"abi"`
	Syscall     string `parquet:"syscall"`
	Frame       int32  `parquet:"frame"` // 0 holds the syscall instruction
	Object      string `parquet:"object"`
	Function    string `parquet:"function"` // empty if unknown
	Offset      uint64 `parquet:"offset"`   // in bytes from the function's start; without one, in the object's file
}

// FrameRows returns the rows of the example stack of a call, innermost first.
func FrameRows(p *attribution.Program, compartment string, s *attribution.Syscall) []FrameRow {
	rows := make([]FrameRow, len(s.Example))
	for i, f := range s.Example {
		rows[i] = FrameRow{p.Path, compartment, string(s.ABI), s.Name, int32(i), f.Object, f.Function, f.Offset}
	}
	return rows
}

// WriteRows writes rows, structs with a field for each column, as CSV (RFC 4180, a header, null as an empty field) or
// Parquet. The tags of the fields are those of parquet-go: they are the model of both.
func WriteRows[T any](w io.Writer, rows []T, f Format) error {
	var err error
	switch f {
	case CSV:
		err = writeCSV(w, rows)
	case Parquet:
		err = parquet.Write(w, rows, parquet.CreatedBy("bulkhead", "", ""), parquet.Compression(&parquet.Snappy))
	default:
		return fmt.Errorf("%s has no rows", f)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", f, err)
	}
	return nil
}

func writeCSV[T any](w io.Writer, rows []T) error {
	schema := parquet.SchemaOf(new(T))
	columns := schema.Fields()
	record := make([]string, len(columns))
	for i, c := range columns {
		record[i] = c.Name()
	}
	out := csv.NewWriter(w)
	out.Write(record)
	var values parquet.Row
	for i := range rows {
		values = schema.Deconstruct(values[:0], &rows[i])
		for j, v := range values {
			record[j] = field(v, columns[j])
		}
		out.Write(record)
	}
	out.Flush()
	return out.Error()
}

// field is a value in a CSV file: a fraction has as many digits as tell it from its neighbours.
func field(v parquet.Value, column parquet.Field) string {
	switch {
	case v.IsNull():
		return ""
	case v.Kind() == parquet.Double:
		return strconv.FormatFloat(v.Double(), 'f', -1, 64)
	case v.Kind() == parquet.Int64 && unsigned(column.Type().LogicalType()):
		return strconv.FormatUint(v.Uint64(), 10)
	}
	return v.String()
}

func unsigned(t *format.LogicalType) bool {
	if t == nil {
		return false
	}
	n, ok := t.Value.(*format.IntType)
	return ok && !n.IsSigned
}
