package build

import (
	"encoding/binary"
)

// ForOtherMachine is the beginning of an executable for a machine that this one is not.
func ForOtherMachine() []byte {
	const (
		executable = 2
		s390       = 22
	)
	elf := append([]byte("\x7fELF\x02\x02\x01"), make([]byte, 9)...)
	elf = binary.BigEndian.AppendUint16(elf, executable)
	elf = binary.BigEndian.AppendUint16(elf, s390)
	elf = binary.BigEndian.AppendUint32(elf, 1)
	return append(elf, make([]byte, 4096)...)
}
