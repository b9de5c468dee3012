package cfi

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"unsafe"
)

// The binary form of a table, all little-endian: magic, version, the numbers of rows, rules and losses, a CRC-32C of
// what follows, then the rows (8 bytes), rules (24) and losses (17).
const (
	tableMagic   = "bulkcfi\x00"
	tableVersion = 6 // also to be raised when Build finds other rules in the same file
	headerSize   = 8 + 5*4
	rowSize      = 8
	ruleSize     = 24
	lossSize     = 17
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// MarshalBinary implements [encoding.BinaryMarshaler].
func (t *Table) MarshalBinary() ([]byte, error) {
	if len(t.Rows) > math.MaxUint32 || len(t.Rules) > 1<<16 || len(t.Losses) > maxLosses {
		return nil, errors.New("unwind table is too large")
	}
	le := binary.LittleEndian
	b := make([]byte, headerSize, headerSize+len(t.Rows)*rowSize+len(t.Rules)*ruleSize+len(t.Losses)*lossSize)
	for _, r := range t.Rows {
		b = le.AppendUint32(b, r.Offset)
		b = le.AppendUint16(b, r.Rule)
		b = le.AppendUint16(b, r.Region)
	}
	for _, r := range t.Rules {
		b = append(b, byte(r.CFA), r.Reg, byte(r.Flags), 0)
		for _, v := range [...]int32{r.CFAOffset, r.CFAExtra, r.RBPOffset, r.RBXOffset, r.RAOffset} {
			b = le.AppendUint32(b, uint32(v))
		}
	}
	for _, l := range t.Losses {
		b = le.AppendUint64(b, l.Begin)
		b = le.AppendUint64(b, l.End)
		b = append(b, byte(l.Reason))
	}
	copy(b, tableMagic)
	le.PutUint32(b[8:], tableVersion)
	le.PutUint32(b[12:], uint32(len(t.Rows)))
	le.PutUint32(b[16:], uint32(len(t.Rules)))
	le.PutUint32(b[20:], uint32(len(t.Losses)))
	le.PutUint32(b[24:], crc32.Checksum(b[headerSize:], castagnoli))
	return b, nil
}

// UnmarshalBinary implements [encoding.BinaryUnmarshaler]. It accepts what MarshalBinary writes, and nothing that
// Lookup or a walk could trip over; on an error the table is not changed. The table may keep data, which must not be changed
// afterwards: a copy of all rows of a large program takes longer than all else here.
func (t *Table) UnmarshalBinary(data []byte) error {
	le := binary.LittleEndian
	if len(data) < headerSize || string(data[:8]) != tableMagic {
		return errors.New("not an unwind table")
	}
	if v := le.Uint32(data[8:]); v != tableVersion {
		return fmt.Errorf("unwind table of version %d, want %d", v, tableVersion)
	}
	rows, rules, losses := uint64(le.Uint32(data[12:])), uint64(le.Uint32(data[16:])), uint64(le.Uint32(data[20:]))
	body := data[headerSize:]
	if rows*rowSize+rules*ruleSize+losses*lossSize != uint64(len(body)) {
		return fmt.Errorf("unwind table of %d bytes does not hold its %d rows, %d rules and %d losses", len(data), rows, rules, losses)
	}
	if crc32.Checksum(body, castagnoli) != le.Uint32(data[24:]) {
		return errors.New("unwind table fails its checksum")
	}
	if rules == 0 || rules > 1<<16 || losses > maxLosses {
		return fmt.Errorf("unwind table with %d rules and %d losses", rules, losses)
	}
	read := Table{Rows: decodeRows(body[:rows*rowSize]), Rules: make([]Rule, rules), Losses: make([]Loss, losses)}
	body = body[rows*rowSize:]
	for i := range read.Rules {
		r := &read.Rules[i]
		r.CFA, r.Reg, r.Flags = CFAKind(body[0]), body[1], Flags(body[2])
		for j, v := range [...]*int32{&r.CFAOffset, &r.CFAExtra, &r.RBPOffset, &r.RBXOffset, &r.RAOffset} {
			*v = int32(le.Uint32(body[4+4*j:]))
		}
		body = body[ruleSize:]
	}
	for i := range read.Losses {
		read.Losses[i] = Loss{le.Uint64(body), le.Uint64(body[8:]), Reason(body[16])}
		body = body[lossSize:]
	}
	if err := read.check(); err != nil {
		return err
	}
	*t = read
	return nil
}

// decodeRows reads rows where they are, when that is how this machine has them in memory.
func decodeRows(data []byte) []Row {
	if len(data) == 0 {
		return []Row{}
	}
	sample := binary.NativeEndian.Uint16([]byte{1, 0})
	first := unsafe.Pointer(unsafe.SliceData(data))
	if sample == 1 && unsafe.Sizeof(Row{}) == rowSize && uintptr(first)%unsafe.Alignof(Row{}) == 0 {
		return unsafe.Slice((*Row)(first), len(data)/rowSize)
	}
	le := binary.LittleEndian
	rows := make([]Row, len(data)/rowSize)
	for i := range rows {
		rows[i] = Row{Offset: le.Uint32(data), Rule: le.Uint16(data[4:]), Region: le.Uint16(data[6:])}
		data = data[rowSize:]
	}
	return rows
}

// check verifies what the type promises.
func (t *Table) check() error {
	for i, row := range t.Rows {
		if int(row.Rule) >= len(t.Rules) || row.Region != 0 {
			return fmt.Errorf("row %d of the unwind table has rule %d of %d, region %d", i, row.Rule, len(t.Rules), row.Region)
		}
		if i > 0 && row.Offset <= t.Rows[i-1].Offset {
			return fmt.Errorf("row %d of the unwind table is out of order", i)
		}
	}
	for i, r := range t.Rules {
		if r.CFA > KindSignal || r.Reg >= RegRIP || r.Flags >= Interrupted<<1 ||
			r.Flags&RAInRegister != 0 && (r.RAOffset < 0 || r.RAOffset >= RegRIP) {
			return fmt.Errorf("rule %d of the unwind table is not valid: %+v", i, r)
		}
	}
	if t.Rules[0] != (Rule{}) {
		return errors.New("rule 0 of the unwind table is not KindNone")
	}
	return nil
}
