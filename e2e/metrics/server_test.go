package metrics

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"example.com/baton/e2e/internal/await"
	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// prometheus is a running Prometheus that scrapes a service every second and knows our rules.
type prometheus struct {
	t       testing.TB
	address string
}

func startPrometheus(t testing.TB, b *service.Baton) *prometheus {
	t.Helper()
	path := tier.Tool(t, "prometheus")
	rules, err := filepath.Abs("../../handlers/dashboard/rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	err = os.WriteFile(config, fmt.Appendf(nil, `
global: {scrape_interval: 1s, evaluation_interval: 1s}
scrape_configs: [{job_name: baton, static_configs: [{targets: [%q]}]}]
rule_files: [%q]
`, b.Admin, rules), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	p := &prometheus{t: t, address: net.JoinHostPort(b.Host, service.FreePort(t, b.Host))}
	cmd := exec.Command(path, "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+p.address, "--log.level=warn")
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stderr, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		timer := time.AfterFunc(20*time.Second, func() { cmd.Process.Kill() })
		err := cmd.Wait()
		timer.Stop()
		if err != nil || t.Failed() {
			t.Logf("prometheus: %v\n%s", err, service.Tail(stderr.String(), 20))
		}
	})
	await.Until(t, "Prometheus that is ready", func() bool {
		resp, err := http1.Fetch("tcp", p.address, "GET", "/-/ready")
		return err == nil && resp.Status == 200
	})
	return p
}

// sample is one value at one time, in seconds since 1970.
type sample struct{ at, value float64 }

func (s *sample) UnmarshalJSON(text []byte) error {
	var value string
	if err := json.Unmarshal(text, &[]any{&s.at, &value}); err != nil {
		return err
	}
	var err error
	s.value, err = strconv.ParseFloat(value, 64)
	return err
}

// series is one series of the answer to a query.
type series struct {
	Metric map[string]string
	Value  sample
	Values []sample
}

// ask makes a request of the API, and stores the data of the answer.
func (p *prometheus) ask(path string, data any, values ...string) {
	p.t.Helper()
	query := make(url.Values)
	for pair := range slices.Chunk(values, 2) {
		query.Add(pair[0], pair[1])
	}
	resp, err := http1.Fetch("tcp", p.address, "GET", "/api/v1/"+path+"?"+query.Encode())
	if err != nil {
		p.t.Fatalf("%s %q: %v", path, values, err)
	}
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.Unmarshal(resp.Body, &answer); err != nil || answer.Status != "success" {
		p.t.Fatalf("%s %q: %v, %s %s", path, values, err, answer.Status, answer.Error)
	}
}

// query returns the result of an expression now.
func (p *prometheus) query(expression string) []series {
	p.t.Helper()
	var data struct{ Result []series }
	p.ask("query", &data, "query", expression)
	return data.Result
}

// number returns the only value of an expression, and NaN if there is none.
func (p *prometheus) number(expression string) float64 {
	p.t.Helper()
	result := p.query(expression)
	if len(result) > 1 {
		p.t.Fatalf("%s: got %d series, want 1", expression, len(result))
	}
	if len(result) == 0 {
		return math.NaN()
	}
	return result[0].Value.value
}
