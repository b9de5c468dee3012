package bpf

import (
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/cilium/ebpf"

	"bulkhead/internal/cfi"
)

const (
	blockRows   = len(traceBlock{}.Rows)
	shardBlocks = 512 // SHARD_BLOCKS in walk.h: max_entries of a shard
	firstShards = 2   // made at once: enough for most servers
	batchBlocks = 16
)

// rowStore puts unwind rows into the kernel's maps: rules are shared by all objects, rows fill blocks of one page,
// blocks fill shards that are made when needed. Nothing is freed before Close.
type rowStore struct {
	mu        sync.Mutex
	objects   *ebpf.Map
	ruleMap   *ebpf.Map
	shardMap  *ebpf.Map
	shardSpec *ebpf.MapSpec
	shards    []func() (*ebpf.Map, error)
	blocks    uint32       // in use
	batch     []traceBlock // on its way to the kernel: memory that was never used is slow
	rules     map[traceRule]uint16
	regionMap *ebpf.Map
	regions   uint32 // in use; region 0 is that of no object
}

func newRowStore(maps map[string]*ebpf.Map, shard *ebpf.MapSpec) *rowStore {
	// Rule 0 of the map is RULE_NONE, as it was made.
	s := &rowStore{
		objects: maps["objects"], ruleMap: maps["rules"], shardMap: maps["shards"],
		shardSpec: shard, batch: make([]traceBlock, batchBlocks), rules: map[traceRule]uint16{{}: 0}, regionMap: maps["regions"], regions: 1,
	}
	for i := range uint32(firstShards) {
		s.shards = append(s.shards, s.newShard(i))
	}
	return s
}

func (s *rowStore) Close() error {
	if s == nil {
		return nil
	}
	var errs []error
	for _, shard := range s.shards {
		if m, err := shard(); err == nil {
			errs = append(errs, m.Close())
		}
	}
	return errors.Join(errs...)
}

func (s *rowStore) load(id ObjectID, table *cfi.Table, regions []RegionFlags) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	object := traceObject{Flags: uint32(traceObjectFlagsOBJECT_READY), FirstRegion: s.regions}
	if err := s.addRegions(regions); err != nil {
		return err
	}
	if table != nil && len(table.Rows) > 0 {
		ids, err := s.addRules(table.Rules)
		if err != nil {
			return err
		}
		blocks := uint32((len(table.Rows) + blockRows - 1) / blockRows)
		if err := s.grow(blocks); err != nil {
			return err
		}
		object.FirstBlock = s.blocks
		object.Blocks = blocks
		if err := s.addRows(table.Rows, ids); err != nil {
			return err
		}
	}
	if err := s.objects.Put(uint32(id), object); err != nil {
		return fmt.Errorf("open object %d for walks: %w", id, err)
	}
	return nil
}

// addRegions appends the regions of an object.
func (s *rowStore) addRegions(regions []RegionFlags) error {
	if room := s.regionMap.MaxEntries() - s.regions; len(regions) > int(room) {
		return fmt.Errorf("%d regions of an object do not fit into the %d left", len(regions), room)
	}
	keys, values := make([]uint32, len(regions)), make([]traceRegion, len(regions))
	for i, flags := range regions {
		keys[i], values[i] = s.regions+uint32(i), traceRegion{Flags: uint32(flags)}
	}
	if _, err := s.regionMap.BatchUpdate(keys, values, nil); err != nil {
		return fmt.Errorf("store regions: %w", err)
	}
	s.regions += uint32(len(regions))
	return nil
}

// addRules returns the map's index for each rule.
func (s *rowStore) addRules(rules []cfi.Rule) ([]uint16, error) {
	ids := make([]uint16, len(rules))
	var keys []uint32
	var fresh []traceRule
	for i, rule := range rules {
		kernel := kernelRule(rule)
		id, known := s.rules[kernel]
		if !known {
			if len(s.rules) > math.MaxUint16 {
				return nil, fmt.Errorf("more than %d distinct unwind rules", math.MaxUint16)
			}
			id = uint16(len(s.rules))
			keys, fresh = append(keys, uint32(id)), append(fresh, kernel)
			s.rules[kernel] = id
		}
		ids[i] = id
	}
	if len(fresh) == 0 {
		return ids, nil
	}
	if _, err := s.ruleMap.BatchUpdate(keys, fresh, nil); err != nil {
		return nil, fmt.Errorf("store unwind rules: %w", err)
	}
	return ids, nil
}

var ruleKinds = [...]traceRuleKind{
	cfi.KindNone:     traceRuleKindRULE_NONE,
	cfi.KindEnd:      traceRuleKindRULE_END,
	cfi.KindRegister: traceRuleKindRULE_REGISTER,
	cfi.KindDeref:    traceRuleKindRULE_DEREF,
	cfi.KindPLT:      traceRuleKindRULE_PLT,
	cfi.KindSignal:   traceRuleKindRULE_SIGNAL,
}

var ruleFlags = [...]struct {
	cfi    cfi.Flags
	kernel traceRuleFlags
}{
	{cfi.RBPAtRBP, traceRuleFlagsBP_AT_BP},
	{cfi.RBXAtRBP, traceRuleFlagsBX_AT_BP},
	{cfi.RAInRegister, traceRuleFlagsRA_IN_REGISTER},
	{cfi.StackSwitch, traceRuleFlagsSTACK_SWITCH},
	{cfi.Interrupted, traceRuleFlagsINTERRUPTED},
}

func kernelRule(r cfi.Rule) traceRule {
	if r.CFA == cfi.KindNone {
		return traceRule{}
	}
	k := traceRule{
		Kind:      uint8(ruleKinds[r.CFA]),
		Reg:       r.Reg,
		CfaOffset: r.CFAOffset,
		CfaAddend: r.CFAExtra,
		RaOffset:  r.RAOffset,
		BpOffset:  kernelSaved(r.RBPOffset),
		BxOffset:  kernelSaved(r.RBXOffset),
	}
	for _, f := range ruleFlags {
		if r.Flags&f.cfi != 0 {
			k.Flags |= uint8(f.kernel)
		}
	}
	return k
}

func kernelSaved(offset int32) int32 {
	switch offset {
	case cfi.Same:
		return int32(traceSavedSAVED_SAME)
	case cfi.Undefined:
		return int32(traceSavedSAVED_UNDEFINED)
	}
	return offset
}

// addRows appends rows in whole blocks, the last one filled up with rows that no offset reaches.
func (s *rowStore) addRows(rows []cfi.Row, rules []uint16) error {
	for len(rows) > 0 {
		shard, err := s.shards[s.blocks/shardBlocks]()
		if err != nil {
			return err
		}
		slot := s.blocks % shardBlocks
		n := min(int(shardBlocks-slot), (len(rows)+blockRows-1)/blockRows, len(s.batch))
		keys := make([]uint32, n)
		for i := range n {
			keys[i] = slot + uint32(i)
			rows = fillBlock(&s.batch[i], rows, rules)
		}
		if _, err := shard.BatchUpdate(keys, s.batch[:n], nil); err != nil {
			return fmt.Errorf("store unwind rows: %w", err)
		}
		s.blocks += uint32(n)
	}
	return nil
}

func fillBlock(b *traceBlock, rows []cfi.Row, rules []uint16) []cfi.Row {
	n := min(len(rows), blockRows)
	for i, row := range rows[:n] {
		b.Rows[i].Offset = row.Offset
		b.Rows[i].Rule = rules[row.Rule]
		b.Rows[i].Region = row.Region
	}
	for i := n; i < blockRows; i++ {
		b.Rows[i].Offset = math.MaxUint32
	}
	return rows[n:]
}

// grow makes shards until the store has room for blocks more, and one shard to spare. Putting a shard into the map of
// shards waits for all running BPF programs, tens of milliseconds, so all are put at once and the spare one by itself.
func (s *rowStore) grow(blocks uint32) error {
	need := int((s.blocks+blocks+shardBlocks-1)/shardBlocks) + 1
	if need > int(s.shardMap.MaxEntries()) {
		return fmt.Errorf("%d blocks of unwind rows do not fit into %d shards", blocks, s.shardMap.MaxEntries())
	}
	for len(s.shards) < need {
		s.shards = append(s.shards, s.newShard(uint32(len(s.shards))))
	}
	for _, shard := range s.shards[:need-1] {
		if _, err := shard(); err != nil {
			return fmt.Errorf("make room for unwind rows: %w", err)
		}
	}
	return nil
}

// newShard starts making a shard and returns a function that waits for it.
func (s *rowStore) newShard(index uint32) func() (*ebpf.Map, error) {
	shard := sync.OnceValues(func() (*ebpf.Map, error) {
		m, err := ebpf.NewMap(s.shardSpec)
		if err != nil {
			return nil, err
		}
		if err := s.shardMap.Put(index, m); err != nil {
			return nil, errors.Join(err, m.Close())
		}
		return m, nil
	})
	go shard()
	return shard
}
