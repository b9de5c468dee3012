package analysis

import "strings"

// wideFunctions are those that give a stream wide characters: fwide and all that
// read or write them (libio/iofwide.c: nothing else calls _IO_fwide with a mode
// above zero). A stream that is opened with ",ccs=" in its mode is wide, too.
var wideFunctions = []string{
	"fwide", "fputwc", "putwc", "putwchar", "fputwc_unlocked", "putwc_unlocked", "putwchar_unlocked", "fputws", "fputws_unlocked",
	"fgetwc", "getwc", "getwchar", "fgetwc_unlocked", "getwc_unlocked", "getwchar_unlocked", "fgetws", "fgetws_unlocked", "ungetwc",
	"__fgetws_chk", "__fgetws_unlocked_chk", "__getwc_unlocked", "__wuflow", "__woverflow", "__wunderflow",
	"wprintf", "fwprintf", "vwprintf", "vfwprintf", "swprintf", "vswprintf",
	"__wprintf_chk", "__fwprintf_chk", "__vwprintf_chk", "__vfwprintf_chk", "__swprintf_chk", "__vswprintf_chk",
	"wscanf", "fwscanf", "vwscanf", "vfwscanf", "swscanf", "vswscanf",
	"__isoc99_wscanf", "__isoc99_fwscanf", "__isoc99_vwscanf", "__isoc99_vfwscanf", "__isoc99_swscanf", "__isoc99_vswscanf",
	"__isoc23_wscanf", "__isoc23_fwscanf", "__isoc23_vwscanf", "__isoc23_vfwscanf", "__isoc23_swscanf", "__isoc23_vswscanf",
	"open_wmemstream",
}

// wideMode is in the mode of fopen for a stream of wide characters.
const wideMode = ",ccs="

var wideGuard = &guard{Wide: true, Needs: wideFunctions, Outside: true, Why: "libio: functions of wide streams"}

// guardWide lets the functions that glibc has in tables of wide streams alone wait
// until a stream can be wide.
func (r *reach) guardWide(l *linked) {
	if !r.isGlibc(l) || l.Streams[1] == 0 {
		return
	}
	wide := map[uint32]bool{}
	for i := range l.Exports {
		if e := &l.Exports[i]; e.Kind == ExportFunc && strings.HasPrefix(e.Name, "_IO_w") {
			wide[e.Func] = true
		}
	}
	in := map[uint32]bool{} // functions of wide tables
	narrow := map[uint32]bool{}
	for i := range uint32(len(l.Spans)) {
		if s := l.Spans[i]; s.Start < l.Streams[0] || s.Start >= l.Streams[1] {
			continue
		}
		to := narrow
		for _, sl := range l.slotsOf(i) {
			if sl.Kind == SlotFunc && sl.Target != none && wide[sl.Target] {
				to = in
			}
		}
		for _, sl := range l.slotsOf(i) {
			if sl.Kind == SlotFunc && sl.Target != none {
				to[sl.Target] = true
			}
		}
	}
	for f := range in {
		if !narrow[f] {
			r.guards[l.first+f] = append(r.guards[l.first+f], wideGuard)
		}
	}
}
