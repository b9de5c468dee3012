package filecache

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"os"
	"syscall"
	"time"
)

// clockGrain is more than the time within which two changes of a file can leave it with the same times.
const clockGrain = 2 * time.Second

// FileKey names the present content of a file by what stat(2) says of it, for a change of content changes the time of the
// inode's last change. There is no name ("") for a file that changed a moment ago: it may do so again unseen.
func FileKey(info os.FileInfo) string {
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok || time.Since(time.Unix(0, s.Ctim.Nano())) < clockGrain {
		return ""
	}
	var raw []byte
	for _, v := range [...]uint64{s.Dev, s.Ino, uint64(s.Size), uint64(s.Mtim.Nano()), uint64(s.Ctim.Nano())} {
		raw = binary.LittleEndian.AppendUint64(raw, v)
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:16])
}
