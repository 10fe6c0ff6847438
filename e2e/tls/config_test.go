package tls

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"example.com/baton/e2e/internal/build"
	"example.com/baton/e2e/internal/certificate"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/internal/service"
)

// The settings of TLS: `baton check`, a start and an upgrade each report everything that is wrong at once.

func TestBadUsageOfTLS(t *testing.T) {
	t.Parallel()
	cert, key := certificate.Certificate(t)
	other, otherKey := certificate.Certificate(t)
	dir := t.TempDir()
	garbage, missing, locked := filepath.Join(dir, "garbage.pem"), filepath.Join(dir, "missing.pem"), filepath.Join(dir, "directory.pem")
	files.Put(t, []byte("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n"), garbage, 0o600)
	if err := os.Mkdir(locked, 0o700); err != nil { // root may read every file, but no directory as one
		t.Fatal(err)
	}
	host := service.Loopback()
	plain, secure := net.JoinHostPort(host, service.FreePort(t, host)), net.JoinHostPort(host, service.FreePort(t, host))
	tests := []struct {
		name  string
		args  []string
		want  []string // in each line one
		lines int      // of stderr
	}{
		{"no certificate", []string{"-listen", "tls:" + secure}, []string{"-listen tls:" + secure + ": want -tls-cert and -tls-key"}, 1},
		{"no address", []string{"-listen", plain, "-tls-cert", cert, "-tls-key", key}, []string{"want -listen tls:"}, 1},
		{"a certificate without a key", []string{"-listen", "tls:" + secure, "-tls-cert", cert}, []string{"1 -tls-cert and 0 -tls-key"}, 1},
		{"a key without a certificate", []string{"-listen", "tls:" + secure, "-tls-key", key}, []string{"0 -tls-cert and 1 -tls-key"}, 1},
		{"fewer keys", []string{"-listen", "tls:" + secure, "-tls-cert", cert, "-tls-cert", other, "-tls-key", key}, []string{"2 -tls-cert and 1 -tls-key"}, 1},
		{"another's key", []string{"-listen", "tls:" + secure, "-tls-cert", cert, "-tls-key", otherKey}, []string{cert + " with key " + otherKey}, 1},
		{"crossed pairs", []string{"-listen", "tls:" + secure, "-tls-cert", cert, "-tls-cert", other, "-tls-key", otherKey, "-tls-key", key},
			[]string{cert + " with key " + otherKey, other + " with key " + key}, 2},
		{"missing files", []string{"-listen", "tls:" + secure, "-tls-cert", missing + "," + cert, "-tls-key", key + "," + missing},
			[]string{missing + " with key " + key, cert + " with key " + missing}, 2},
		{"no certificate in the file", []string{"-listen", "tls:" + secure, "-tls-cert", garbage, "-tls-key", key}, []string{garbage}, 1},
		{"key and certificate exchanged", []string{"-listen", "tls:" + secure, "-tls-cert", key, "-tls-key", cert}, []string{key + " with key " + cert}, 1},
		{"unreadable", []string{"-listen", "tls:" + secure, "-tls-cert", locked, "-tls-key", key}, []string{locked}, 1},
		{"empty names", []string{"-listen", "tls:" + secure, "-tls-cert", "", "-tls-key", ""}, []string{"-tls-cert: want the path", "-tls-key: want the path", "want -tls-cert and -tls-key"}, 3},
		{"a comma too many", []string{"-listen", "tls:" + secure, "-tls-cert", cert + ",", "-tls-key", key}, []string{"-tls-cert: want the path"}, 1},
		{"redirect to nowhere", []string{"-listen", plain, "-redirect-https"}, []string{"-redirect-https: want -listen tls:"}, 1},
		{"redirect to a unix socket", []string{"-listen", plain, "-listen", "tls:unix:" + dir + "/s", "-tls-cert", cert, "-tls-key", key, "-redirect-https"},
			[]string{"-redirect-https: want -listen tls:"}, 1},
		{"an address twice", []string{"-listen", secure, "-listen", "tls:" + secure, "-tls-cert", cert, "-tls-key", key}, []string{secure}, 1},
		{"no port", []string{"-listen", "tls:" + host, "-tls-cert", cert, "-tls-key", key}, []string{host}, 1},
		{"a URL", []string{"-listen", "tls://" + secure, "-tls-cert", cert, "-tls-key", key}, []string{"//" + host + "\" is not a host"}, 1},
		{"another scheme", []string{"-listen", "TLS:" + secure, "-tls-cert", cert, "-tls-key", key}, []string{"TLS:" + secure, "want -listen tls:"}, 2},
		{"the admin listener", []string{"-admin", "tls:" + secure}, []string{"-admin"}, 1},
		{"all at once", []string{"-listen", "nonsense", "-listen", plain, "-tls-cert", missing, "-tls-key", otherKey, "-tls-cert", garbage, "-tls-key", key, "-redirect-https", "-log-level", "loud"},
			[]string{"nonsense", missing, garbage, "want -listen tls:", "-redirect-https", "loud"}, 6},
	}
	for _, tt := range tests {
		for _, command := range []string{"check", "serve", "configuration file"} {
			t.Run(tt.name+", "+command, func(t *testing.T) {
				t.Parallel()
				directory := t.TempDir()
				args := tt.args
				switch command {
				case "check":
					args = append([]string{"check"}, args...)
				case "configuration file":
					args = []string{"-config", inFile(t, directory, args)}
				}
				env := append(os.Environ(), "RUNTIME_DIRECTORY="+directory)
				if !slices.Contains(tt.args, "-admin") {
					env = append(env, "BATON_ADMIN=")
				}
				code, stdout, stderr := process.Run(t, build.Version(t, "v1"), env, args...)
				if code != 2 || stdout != "" {
					t.Errorf("got exit code %d, stdout %q, want 2 and nothing", code, stdout)
				}
				lines := strings.Split(strings.TrimSpace(stderr), "\n")
				for _, want := range tt.want {
					if !slices.ContainsFunc(lines, func(line string) bool { return strings.HasPrefix(line, "baton: ") && strings.Contains(line, want) }) {
						t.Errorf("stderr: got\n%s\nwant a line with %q", stderr, want)
					}
				}
				if len(lines) != tt.lines {
					t.Errorf("stderr: got %d lines, want %d:\n%s", len(lines), tt.lines, stderr)
				}
				for _, address := range []string{plain, secure} {
					if c, err := http1.Dial("tcp", address, time.Second); err == nil {
						c.Close()
						t.Errorf("%s: got a connection, want nothing bound", address)
					}
				}
				left, _ := os.ReadDir(directory)
				if n := len(left); n > 1 || n == 1 && left[0].Name() != "conf" {
					t.Errorf("left over: %v", left)
				}
			})
		}
	}
}

// inFile writes flags as lines of a configuration file.
func inFile(t *testing.T, directory string, flags []string) (path string) {
	t.Helper()
	var text strings.Builder
	for _, word := range flags {
		if name, isFlag := strings.CutPrefix(word, "-"); isFlag {
			text.WriteString("\n" + name)
		} else {
			text.WriteString(" " + word)
		}
	}
	path = filepath.Join(directory, "conf")
	files.Put(t, []byte(text.String()+"\n"), path, 0o600)
	return path
}

// A certificate that is not valid now is reported, and used all the same: the clock may be wrong, or the clients may not mind.
func TestCertificateThatIsNotValid(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		valid certificate.Validity
		want  string
	}{
		{"expired", certificate.Validity{From: -48 * time.Hour, To: -24 * time.Hour}, "has expired"},
		{"not yet valid", certificate.Validity{From: 24 * time.Hour, To: 48 * time.Hour}, "is not valid before"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			certFile, keyFile := certificate.EcdsaKey.Certificate(t, tt.valid, http1.Host)
			good, goodKey := certificate.Certificate(t, "good.test")
			b := service.Prepare(t, service.OverTLS(good, goodKey), service.Args("-tls-cert", certFile, "-tls-key", keyFile), service.Files(t), service.Args("-idle-grace", "50ms"))
			code, stdout, stderr := b.Run(append([]string{"check"}, b.Flags()...)...)
			if code != 0 || !strings.Contains(stdout, "tls:"+b.Secure()) {
				t.Errorf("check: got exit code %d, stdout %q, want 0 and the addresses", code, stdout)
			}
			if strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, "warning") || !strings.Contains(stderr, certFile) || !strings.Contains(stderr, tt.want) {
				t.Errorf("check: got stderr %q, want a line with a warning that %s %s", stderr, certFile, tt.want)
			}
			b.Launch()
			b.AwaitReady()
			for generation := 1; generation <= 2; generation++ {
				warnings := 0
				for line := range strings.Lines(b.Log()) {
					if strings.Contains(line, `"level":"WARN"`) {
						warnings++
						if !strings.Contains(line, certFile) || !strings.Contains(line, tt.want) {
							t.Errorf("got the warning %s", line)
						}
					}
				}
				if warnings != generation {
					t.Errorf("generation %d: got %d warnings so far, want one of each", generation, warnings)
				}
				blind := trustingHTTP1(t, certFile)
				if _, err := visit(b.Secure(), blind); err == nil || !strings.Contains(err.Error(), "expired") {
					t.Errorf("a client that minds: got %v, want the certificate refused", err)
				}
				blind.InsecureSkipVerify = true
				if _, err := visit(b.Secure(), blind); err != nil {
					t.Errorf("a client that does not mind: %v", err)
				}
				if left := certificateExpiresIn(b, http1.Host); left > tt.valid.To.Seconds() || left < tt.valid.To.Seconds()-600 {
					t.Errorf("expires in: got %v, want about %v", left, tt.valid.To.Seconds())
				}
				b.Upgrade()
			}
		})
	}
}
