package analysis

// A handing is a place where a system call number is handed to a function that
// makes the call, such as syscall(2).
type handing struct {
	to fid
	at step
}

// findTakers finds the functions of conduits that make system calls whose number
// they are handed, with the registers that it may be in, and separates these
// numbers from those that are the functions' own: each caller is charged with what
// it hands over.
func (c *charge) findTakers() {
	c.takes = map[fid]uint32{}
	c.fixed = make([]callset, len(c.own))
	copy(c.fixed, c.own)
	for f := range c.own {
		f := fid(f)
		l := c.owner[f]
		if !c.reached[f] || !l.conduit || c.own[f] == (callset{}) {
			continue
		}
		var fixed callset
		for _, s := range l.sites(f - l.first) {
			for _, e := range l.members(s.Expr) {
				switch {
				case s.ABI != SiteAMD64:
				case e.Op == OpParam:
					c.takes[f] |= 1 << e.I
				case e.Op == OpStackParam && e.N == 8:
					c.takes[f] |= 1 << regStack
				case e.Op == OpConst:
					c.addNumber(&fixed, e.N)
				default:
					fixed = c.own[f] // from memory: resolveBroadcasts
				}
			}
			if s.ABI != SiteAMD64 {
				fixed = c.own[f]
			}
		}
		if c.takes[f] != 0 {
			c.fixed[f] = fixed
		}
	}
}

func (c *charge) addNumber(set *callset, n int64) {
	if i, ok := c.index[numberOf(numbered{nr: int(uint32(n))})]; ok {
		set.add(i)
	}
}

// numbersAt returns what f hands over by edge e to a function that takes a number.
func (c *charge) numbersAt(f fid, e edge) callset {
	takes := c.takes[e.to]
	if takes == 0 {
		return callset{}
	}
	var out callset
	found := uint32(0)
	l := c.owner[f]
	first := l.firstCall(f - l.first)
	for j, call := range l.calls(f - l.first) {
		if call.Off != e.off {
			continue
		}
		for _, a := range l.args(first + uint32(j)) {
			if takes>>a.Reg&1 == 0 {
				continue
			}
			found |= 1 << a.Reg
			for _, x := range l.members(a.Expr) {
				switch x.Op {
				case OpConst:
					c.addNumber(&out, x.N)
				case OpParam:
					n := c.node(nodeKey{f, uint8(x.I)})
					for _, v := range n.numbers {
						c.addNumber(&out, v)
					}
					if n.unknown {
						return c.own[e.to]
					}
				default:
					return c.own[e.to]
				}
			}
		}
	}
	if found != takes {
		return c.own[e.to]
	}
	return out
}
