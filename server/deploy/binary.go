package deploy

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
)

// mainPackage is the path of Baton's main package, by which its binaries are known.
const mainPackage = "example.com/baton"

// isStandIn matches the line that the version command of a script which stands for Baton prints.
var isStandIn = regexp.MustCompile(`baton .*\(commit `)

// IsBaton reports whether a file is Baton, without running it: whatever else embeds its
// packages may take a command for nothing, and start to serve.
func IsBaton(path string) bool {
	if script, ok := readScript(path); ok {
		return isStandIn.Match(script)
	}
	info, err := buildinfo.ReadFile(path)
	return err == nil && info.Path == mainPackage
}

// readScript returns the beginning of a file that begins with #!.
func readScript(path string) (script []byte, ok bool) {
	f, err := os.Open(path)
	if err != nil {
		return nil, false
	}
	defer f.Close()
	script, err = io.ReadAll(io.LimitReader(f, 1<<20))
	return script, err == nil && bytes.HasPrefix(script, []byte("#!"))
}

// CheckProgram fails if a file is no program for this machine, or not all of one. It
// reads what is to be known from the headers, before anything is run: execvp, which most
// tools use, would hand a file that the kernel refuses to a shell.
func CheckProgram(path string) error {
	if _, ok := readScript(path); ok {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	its, err := machineOf(f)
	if err != nil {
		return err
	}
	self, err := os.Open("/proc/self/exe") // which this machine runs
	if err != nil {
		return err
	}
	defer self.Close()
	own, err := machineOf(self)
	if err != nil {
		return err
	}
	if its != own && (its != elf.EM_386 && its != elf.EM_X86_64 || own != elf.EM_386 && own != elf.EM_X86_64) { // one kernel may run both
		return fmt.Errorf("it is for %s, and this machine is %s", machineName(its), machineName(own))
	}
	return checkWhole(f)
}

// machineOf returns the machine that an ELF file is for.
func machineOf(r io.ReaderAt) (elf.Machine, error) {
	header := make([]byte, 20)
	if _, err := r.ReadAt(header, 0); err != nil || string(header[:4]) != elf.ELFMAG {
		return 0, errors.New("it is not a program")
	}
	var order binary.ByteOrder = binary.LittleEndian
	if elf.Data(header[elf.EI_DATA]) == elf.ELFDATA2MSB {
		order = binary.BigEndian
	}
	return elf.Machine(order.Uint16(header[18:])), nil
}

// machineName is the name that Go has for a machine.
func machineName(m elf.Machine) string {
	switch m {
	case elf.EM_386:
		return "386"
	case elf.EM_MIPS:
		return "mips"
	case elf.EM_PPC64:
		return "ppc64"
	case elf.EM_S390:
		return "s390x"
	case elf.EM_ARM:
		return "arm"
	case elf.EM_X86_64:
		return "amd64"
	case elf.EM_AARCH64:
		return "arm64"
	case elf.EM_RISCV:
		return "riscv64"
	case elf.EM_LOONGARCH:
		return "loong64"
	}
	return m.String()
}

// checkWhole fails if not all is there that the tables of an ELF file promise.
func checkWhole(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	end := uint64(0)
	parsed, err := elf.NewFile(f)
	if err == nil {
		for _, p := range parsed.Progs {
			end = max(end, p.Off+p.Filesz)
		}
		for _, s := range parsed.Sections {
			if s.Type != elf.SHT_NOBITS {
				end = max(end, s.Offset+s.FileSize)
			}
		}
	}
	if err != nil || end > uint64(info.Size()) {
		return fmt.Errorf("it is truncated: its tables describe more than its %d bytes", info.Size())
	}
	return nil
}

// A Release is what a binary of Baton says it is.
type Release struct {
	Version string
	Commit  string
}

// String is the release as people name it.
func (r Release) String() string {
	if r.Commit == "" {
		return r.Version
	}
	return fmt.Sprintf("%s (%.7s)", r.Version, r.Commit)
}

// versionLine may come after a shell's complaint.
var versionLine = regexp.MustCompile(`(?m)^baton (.*?) \(commit ([^,)]*)`)

// ReleaseOf runs the version command of a binary, as the service.
func ReleaseOf(ctx context.Context, p *Process, path string) (Release, error) {
	output, err := p.Run(ctx, path, "version")
	match := versionLine.FindStringSubmatch(output)
	if err == nil && match != nil {
		return Release{match[1], match[2]}, nil
	}
	code := 0
	if exit := (*runError)(nil); errors.As(err, &exit) {
		code, output = exit.code, exit.output
	}
	return Release{}, fmt.Errorf("its version command fails (exit code %d): %s", code, orElse(strings.TrimSpace(output), "it prints nothing"))
}

// CheckConfiguration has a binary check the configuration of a service that runs.
func CheckConfiguration(ctx context.Context, p *Process, path string) error {
	output, err := p.Run(ctx, path, append([]string{"check"}, p.Arguments[1:]...)...)
	if exit := (*runError)(nil); errors.As(err, &exit) {
		return fmt.Errorf("its check of today's configuration fails (exit code %d):\n%s", exit.code, orElse(output, exit.output))
	}
	return nil
}

// NameOf is the name of a file that need not run now: its release or, of what is not
// Baton and so must not be run, its path; "" if it does not run.
func NameOf(ctx context.Context, p *Process, path string) string {
	if !IsBaton(path) {
		return path
	}
	r, err := ReleaseOf(ctx, p, path)
	if err != nil {
		return ""
	}
	return r.String()
}
