package compare

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/files"
	"example.com/baton/e2e/internal/process"
	"example.com/baton/e2e/tier"
)

const caddyConfig = `
{
	admin unix/DIR/admin.sock
	auto_https off
	servers {
		protocols h1 h2
		timeouts {
			idle 1h
		}
	}
}

http://:PORT {
	bind HOST
	header X-Pid GENERATION
	respond BODY
}

https://:PORT_TLS {
	bind HOST
	tls CERT KEY
	header X-Pid GENERATION
	respond BODY
}
`

// startCaddy starts Caddy, of which one process goes on when it is reloaded, with new servers and another configuration:
// what stands for the process here is the number of the configuration.
func startCaddy(t *testing.T) *other {
	path := tier.Tool(t, "caddy")
	p := otherPlace(t)
	config := filepath.Join(p.dir, "Caddyfile")
	generation := 1
	configure := func() {
		text := strings.ReplaceAll(caddyConfig, "GENERATION", strconv.Itoa(generation))
		files.Put(t, []byte(p.fill(text)), config, 0o644)
	}
	configure()
	caddy := runOther(t, p.dir, "env", "HOME="+p.dir, path, "run", "--config", config)
	t.Cleanup(func() { endOther(t, []*process.Process{caddy}, nil) })
	said, err := exec.Command(path, "version").Output()
	if err != nil {
		t.Fatal(err)
	}
	version, _, _ := strings.Cut(strings.Fields(string(said))[0], "-")
	o := &other{
		name:    fmt.Sprintf("Caddy %s, reload", strings.TrimPrefix(version, "v")),
		place:   p,
		workers: func() []int { return []int{generation} },
		answers: func() int { return whoAnswers(p.address) },
		renew: func(t *testing.T) {
			generation++
			configure()
			cmd := exec.Command(path, "reload", "--config", config)
			cmd.Env = append(cmd.Environ(), "HOME="+p.dir)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("caddy reload: %v\n%s", err, out)
			}
		},
	}
	await.Until(t, "answer of Caddy", func() bool { return o.answers() != 0 })
	return o
}
