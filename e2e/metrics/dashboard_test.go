package metrics

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"example.com/baton/e2e/internal/http1"
	"example.com/baton/e2e/internal/service"
	"example.com/baton/e2e/tier"
)

// checkDashboard checks that every series that the dashboard and the rules name is there, and that each panel shows something.
func checkDashboard(t *testing.T, p *prometheus) {
	expressions := make(map[string]string)
	var rules struct {
		Groups []struct {
			Rules []struct{ Name, Query, Health, LastError string }
		}
	}
	p.ask("rules", &rules)
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			expressions["rule "+rule.Name] = rule.Query
			if rule.Health != "ok" {
				t.Errorf("rule %s: got health %s %s, want ok", rule.Name, rule.Health, rule.LastError)
			}
		}
	}
	if len(expressions) < 10 {
		t.Fatalf("rules: got %d, want more than 10", len(expressions))
	}
	panels := dashboard(t)
	maps.Copy(expressions, panels)

	found := make(map[string]bool)
	for where, expression := range expressions {
		var canonical string // in which words stand where they have to
		p.ask("format_query", &canonical, "query", expression)
		for _, selector := range selectors(canonical) {
			var data []map[string]string
			p.ask("series", &data, "match[]", selector)
			if found[selector] = true; len(data) == 0 {
				t.Errorf("%s: there is no series %s", where, selector)
			}
		}
	}
	for where, expression := range panels {
		if len(p.query(expression)) == 0 && !strings.HasPrefix(where, "annotation") {
			t.Errorf("%s: shows nothing for %s", where, expression)
		}
	}
	t.Logf("%d expressions with %d selectors", len(expressions), len(found))
}

// Each panel says in which unit its values are, and shows them without the recording rules too. What has none is a number
// or a word that is no quantity.
func TestDashboard(t *testing.T) {
	text, err := os.ReadFile("../../handlers/dashboard/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title, Type string
			FieldConfig struct{ Defaults struct{ Unit string } }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	without := []string{"Generation", "Version", "State"}
	for _, panel := range board.Panels {
		unit := panel.FieldConfig.Defaults.Unit
		if panel.Type != "row" && (unit == "" || unit == "none") && !slices.Contains(without, panel.Title) {
			t.Errorf("panel %s: got unit %q, want one", panel.Title, unit)
		}
	}
	for where, expression := range dashboard(t) {
		if strings.Contains(expression, "instance:") {
			t.Errorf("%s: %s takes the recording rules", where, expression)
		}
	}
}

// dashboard returns the expressions of the dashboard, with its variables replaced.
func dashboard(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../../handlers/dashboard/grafana.json")
	if err != nil {
		t.Fatal(err)
	}
	type target struct{ Expr string }
	var board struct {
		Panels []struct {
			Title   string
			Targets []target
		}
		Annotations struct {
			List []struct{ Name, Expr string }
		}
		Templating struct {
			List []struct{ Name, Type, Definition string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	variables := strings.NewReplacer("$job", ".*", "$instance", ".*", "$__rate_interval", "10s")
	expressions := make(map[string]string)
	for _, panel := range board.Panels {
		for i, target := range panel.Targets {
			expressions[fmt.Sprintf("panel %s, %d", panel.Title, i)] = variables.Replace(target.Expr)
		}
	}
	if len(expressions) < 20 {
		t.Fatalf("dashboard: got %d expressions, want more than 20", len(expressions))
	}
	for _, annotation := range board.Annotations.List {
		expressions["annotation "+annotation.Name] = variables.Replace(annotation.Expr)
	}
	for _, variable := range board.Templating.List {
		if inner, ok := strings.CutPrefix(variable.Definition, "label_values("); ok {
			selector, label, _ := strings.Cut(strings.TrimSuffix(inner, ")"), ", ")
			expressions["variable "+variable.Name] = fmt.Sprintf("count by (%s) (%s)", label, variables.Replace(selector))
		}
	}
	for where, expression := range expressions {
		if strings.Contains(expression, "$") {
			t.Errorf("%s: unknown variable in %s", where, expression)
		}
	}
	return expressions
}

// selectors returns the selectors of a valid expression. It must have no } or ] in a string.
func selectors(expression string) (found []string) {
	for _, m := range metric.FindAllStringSubmatch(notMetrics.ReplaceAllString(expression, " "), -1) {
		if m[1] == "" && (m[0][0] < '0' || m[0][0] > '9') { // no function and no number
			found = append(found, m[0])
		}
	}
	return found
}

func TestSelectors(t *testing.T) {
	for expression, want := range map[string]string{
		`up == 0`: `up`,
		`sum by (job, instance) (rate(a_total{code=~"5.."}[5m])) / on (job) group_left (x) b:c > 0.5e3`: `a_total{code=~"5.."} b:c`,
		`histogram_quantile(0.99, sum by (le) (increase(d_bucket[1h:1m] offset 5m))) or 0 * e`:          `d_bucket e`,
		`{__name__="f"} and on () last_over_time(g[1h])`:                                                `{__name__="f"} g`,
	} {
		if got := strings.Join(selectors(expression), " "); got != want {
			t.Errorf("%s: got %s, want %s", expression, got, want)
		}
	}
}

func TestPromtool(t *testing.T) {
	tier.Slow(t, "runs promtool")
	t.Parallel()
	promtool := tier.Tool(t, "promtool")
	check := func(stdin []byte, args ...string) {
		t.Helper()
		cmd := exec.Command(promtool, args...)
		cmd.Dir, cmd.Stdin = "../../handlers/dashboard", bytes.NewReader(stdin)
		if out, err := cmd.CombinedOutput(); err != nil || stdin != nil && len(out) > 0 {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	check(nil, "check", "rules", "rules.yml")
	check(nil, "test", "rules", "rules_test.yml")
	b := service.Start(t, service.Files(t), service.Args("-idle-grace", "100ms"))
	b.Get("/")
	b.Upgrade() // so that there are others
	b.AwaitGeneration(2)
	resp, err := http1.Fetch("tcp", b.Admin, "GET", "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	check(resp.Body, "check", "metrics")
}
