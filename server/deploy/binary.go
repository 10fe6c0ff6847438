package deploy

import (
	"bytes"
	"cmp"
	"debug/buildinfo"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"strings"
)

// mainPackage is the path of Baton's main package, by which its binaries are known.
const mainPackage = "example.com/baton"

// isStandIn matches the line that the version command of a script which stands for Baton prints.
var isStandIn = regexp.MustCompile(`baton .*\(commit `)

// isBaton reports whether a file is Baton, without running it: whatever else embeds its
// packages may take a command for nothing, and start to serve.
func isBaton(path string) bool {
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

// checkProgram fails if a file is no program for this machine, or not all of one. It
// reads what is to be known from the headers, before anything is run: execvp, which most
// tools use, would hand a file that the kernel refuses to a shell.
func checkProgram(path string) error {
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
	own := runtime.GOARCH
	if name := machineName(its); !strings.HasPrefix(own, name) || name == "arm" && own == "arm64" {
		isPC := func(name string) bool { return name == "386" || name == "amd64" } // one kernel may run both
		if !isPC(name) || !isPC(own) {
			return fmt.Errorf("it is for %s, and this machine is %s", name, own)
		}
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

var machineNames = map[elf.Machine]string{
	elf.EM_386: "386", elf.EM_MIPS: "mips", elf.EM_PPC64: "ppc64", elf.EM_S390: "s390x", elf.EM_ARM: "arm",
	elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64", elf.EM_RISCV: "riscv64", elf.EM_LOONGARCH: "loong64",
}

// machineName is the name that Go has for a machine, whatever its byte order.
func machineName(m elf.Machine) string { return cmp.Or(machineNames[m], m.String()) }

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

// A release is what a binary of Baton says it is.
type release struct {
	Version string
	Commit  string
}

// String is the release as people name it.
func (r release) String() string {
	if r.Commit == "" {
		return r.Version
	}
	return fmt.Sprintf("%s (%.7s)", r.Version, r.Commit)
}

// versionLine may come after a shell's complaint.
var versionLine = regexp.MustCompile(`(?m)^baton (.*?) \(commit ([^,)]*)`)

// releaseOf runs the version command of a binary, as the service.
func releaseOf(p *process, path string) (release, error) {
	output, code := p.run(path, "version")
	match := versionLine.FindStringSubmatch(output)
	if code == 0 && match != nil {
		return release{match[1], match[2]}, nil
	}
	return release{}, fmt.Errorf("its version command fails (exit code %d): %s", code, cmp.Or(strings.TrimSpace(output), "it prints nothing"))
}

// checkConfiguration has a binary check the configuration of a service that runs.
func checkConfiguration(p *process, path string) error {
	output, code := p.run(path, append([]string{"check"}, p.Arguments[1:]...)...)
	if code != 0 {
		return fmt.Errorf("its check of today's configuration fails (exit code %d):\n%s", code, output)
	}
	return nil
}

// nameOf is the name of a file that need not run now: its release or, of what is not
// Baton and so must not be run, its path; "" if it does not run.
func nameOf(p *process, path string) string {
	if !isBaton(path) {
		return path
	}
	r, err := releaseOf(p, path)
	if err != nil {
		return ""
	}
	return r.String()
}
