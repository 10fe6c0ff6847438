package metrics

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// line is a Gatherer of the whole line of generations: to every counter,
// histogram, and sum and count of a summary of inner it adds the values of
// others, which is called once for each Gather. Everything else is inner's.
//
// The values have the form that values returns. The others may be of another
// release: what this one has no family for is left out, as is what is no finite
// number above 0; labels that this one never has make a series of their own; and
// a bucket that this one does not have is counted in the next larger one. No
// series ever decreases by this, as long as none of inner and others does.
//
// When a series began is not told: it began with the first generation that had it.
type line struct {
	inner  prometheus.Gatherer
	others func() map[string]float64
}

// machineWide are counters that a collector reads for the network namespace.
// They do not begin anew with a process, and adding them up would count all traffic twice.
var machineWide = []string{"process_network_receive_bytes_total", "process_network_transmit_bytes_total"}

// Gather returns what a registry would, sorted as it does.
func (l line) Gather() ([]*dto.MetricFamily, error) {
	others := parseValues(l.others())
	families, err := l.inner.Gather()
	for _, f := range families {
		switch name := f.GetName(); {
		case slices.Contains(machineWide, name) || len(f.Metric) == 0:
		case f.GetType() == dto.MetricType_COUNTER:
			addCounters(f, others[name])
		case f.GetType() == dto.MetricType_HISTOGRAM:
			addHistograms(f, others.distribution(name))
		case f.GetType() == dto.MetricType_SUMMARY:
			addSummaries(f, others.distribution(name))
		}
	}
	return families, err
}

// values returns what line adds up, by the name that each value has in the text
// format of Prometheus. The buckets of a histogram hold their own observations
// only and not those of the smaller ones; the last, +Inf, follows from the
// count and is left out. So is what is 0.
func values(families []*dto.MetricFamily) map[string]float64 {
	found := make(map[string]float64)
	put := func(name string, labels []*dto.LabelPair, value float64) {
		if value = onGrid(value); value > 0 && !math.IsInf(value, 0) {
			found[key(name, labels)] = value
		}
	}
	for _, f := range families {
		name := f.GetName()
		for _, m := range f.GetMetric() {
			switch {
			case slices.Contains(machineWide, name):
			case m.Counter != nil:
				put(name, m.Label, m.Counter.GetValue())
			case m.Histogram != nil:
				put(name+"_sum", m.Label, m.Histogram.GetSampleSum())
				put(name+"_count", m.Label, float64(m.Histogram.GetSampleCount()))
				var below uint64
				for _, b := range m.Histogram.GetBucket() {
					if !math.IsInf(b.GetUpperBound(), 1) {
						le := &dto.LabelPair{Name: new("le"), Value: new(number(b.GetUpperBound()))}
						put(name+"_bucket", append(slices.Clone(m.Label), le), float64(b.GetCumulativeCount()-below))
						below = b.GetCumulativeCount()
					}
				}
			case m.Summary != nil:
				put(name+"_sum", m.Label, m.Summary.GetSampleSum())
				put(name+"_count", m.Label, float64(m.Summary.GetSampleCount()))
			}
		}
	}
	return found
}

// onGrid rounds to a multiple of 2⁻²⁰, about a microsecond. Sums of such numbers
// are exact up to 2³³, so that it makes no difference in which order those of
// many generations are added up: a total that is a last digit smaller than
// before would be a reset to a scraper.
func onGrid(v float64) float64 {
	const grid = 1 << 20
	if v >= 1<<33 {
		return v // has no finer digits
	}
	return math.Round(v*grid) / grid
}

func number(v float64) string { return strconv.FormatFloat(v, 'g', -1, 64) }

// foreign are the values of the others: by name, then by labels.
type foreign map[string]map[string]*foreignValue

type foreignValue struct {
	labels  []*dto.LabelPair // sorted
	value   float64          // of a counter, or the sum of a distribution
	count   float64
	buckets map[float64]float64 // by upper bound
}

func parseValues(texts map[string]float64) foreign {
	parsed := make(foreign)
	for text, value := range texts {
		if !(value > 0) || math.IsInf(value, 0) {
			continue
		}
		if name, labels, ok := parseKey(text); ok {
			parsed.at(name, labels).value += value
		}
	}
	return parsed
}

func (f foreign) at(name string, labels []*dto.LabelPair) *foreignValue {
	if f[name] == nil {
		f[name] = make(map[string]*foreignValue)
	}
	at := key("", labels)
	if f[name][at] == nil {
		f[name][at] = &foreignValue{labels: labels, buckets: make(map[float64]float64)}
	}
	return f[name][at]
}

// distribution returns sums, counts and buckets of that name, by their labels without le.
func (f foreign) distribution(name string) map[string]*foreignValue {
	found := make(foreign)
	for _, v := range f[name+"_sum"] {
		found.at(name, v.labels).value = v.value
	}
	for _, v := range f[name+"_count"] {
		if isCount(v.value) {
			found.at(name, v.labels).count = v.value
		}
	}
	for _, v := range f[name+"_bucket"] {
		le := slices.IndexFunc(v.labels, func(l *dto.LabelPair) bool { return l.GetName() == "le" })
		if le < 0 || !isCount(v.value) {
			continue
		}
		bound, err := strconv.ParseFloat(v.labels[le].GetValue(), 64)
		if err != nil || math.IsNaN(bound) || math.IsInf(bound, 1) {
			continue
		}
		found.at(name, slices.Delete(slices.Clone(v.labels), le, le+1)).buckets[bound] += v.value
	}
	return found[name]
}

// isCount leaves out what cannot be counted exactly.
func isCount(v float64) bool { return v <= 1<<53 && v == math.Trunc(v) }

// each calls add for every series of f with what the others have of it, and for
// a new one where f has none.
func each(f *dto.MetricFamily, others map[string]*foreignValue, add func(*dto.Metric, *foreignValue)) {
	seen := make(map[string]bool)
	for _, m := range f.Metric {
		at := key("", m.Label)
		seen[at] = true
		if v := others[at]; v != nil {
			add(m, v)
		} else {
			add(m, &foreignValue{})
		}
	}
	for at, v := range others {
		if !seen[at] && fits(v.labels) {
			m := &dto.Metric{Label: v.labels}
			add(m, v)
			f.Metric = append(f.Metric, m)
		}
	}
	slices.SortFunc(f.Metric, func(a, b *dto.Metric) int {
		return slices.CompareFunc(a.Label, b.Label, func(a, b *dto.LabelPair) int {
			return cmp.Or(cmp.Compare(a.GetName(), b.GetName()), cmp.Compare(a.GetValue(), b.GetValue()))
		})
	})
}

// fits reports whether a series may have such labels: le and quantile are those of
// buckets and quantiles only.
func fits(labels []*dto.LabelPair) bool {
	return !slices.ContainsFunc(labels, func(l *dto.LabelPair) bool {
		return l.GetName() == "le" || l.GetName() == "quantile"
	})
}

// What a collector gave is replaced and not changed: it may be shared.

func addCounters(f *dto.MetricFamily, others map[string]*foreignValue) {
	each(f, others, func(m *dto.Metric, v *foreignValue) {
		m.Counter = &dto.Counter{Value: new(onGrid(m.Counter.GetValue()) + v.value), Exemplar: m.Counter.GetExemplar()}
	})
}

func addSummaries(f *dto.MetricFamily, others map[string]*foreignValue) {
	each(f, others, func(m *dto.Metric, v *foreignValue) {
		m.Summary = &dto.Summary{
			SampleSum:   new(onGrid(m.Summary.GetSampleSum()) + v.value),
			SampleCount: new(m.Summary.GetSampleCount() + uint64(v.count)),
			Quantile:    m.Summary.GetQuantile(), // of this generation: they cannot be added
		}
	})
}

func addHistograms(f *dto.MetricFamily, others map[string]*foreignValue) {
	bounds := f.Metric[0].Histogram.GetBucket() // those of every series
	each(f, others, func(m *dto.Metric, v *foreignValue) {
		own := m.Histogram.GetBucket()
		h := &dto.Histogram{SampleSum: new(onGrid(m.Histogram.GetSampleSum()) + v.value)}
		for i, b := range bounds {
			bucket := &dto.Bucket{UpperBound: b.UpperBound}
			n := uint64(0)
			if i < len(own) {
				n, bucket.Exemplar = own[i].GetCumulativeCount(), own[i].Exemplar
			}
			// A bucket is cumulative: it has all of theirs whose bound is not above its own.
			for bound, count := range v.buckets {
				if bound <= b.GetUpperBound() {
					n += uint64(count)
				}
			}
			bucket.CumulativeCount = &n
			h.Bucket = append(h.Bucket, bucket)
		}
		count := m.Histogram.GetSampleCount() + uint64(v.count)
		if last := len(h.Bucket) - 1; last >= 0 {
			count = max(count, h.Bucket[last].GetCumulativeCount()) // whatever they say
		}
		h.SampleCount = &count
		m.Histogram = h
	})
}

// key returns a series' name in the text format. Labels must be sorted.
func key(name string, labels []*dto.LabelPair) string {
	if len(labels) == 0 {
		return name
	}
	b := append([]byte(name), '{')
	for i, l := range labels {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, l.GetName()...)
		b = append(b, '=', '"')
		b = append(b, escaper.Replace(l.GetValue())...)
		b = append(b, '"')
	}
	return string(append(b, '}'))
}

var escaper = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)

// parseKey reads what key wrote, with its labels in any order.
func parseKey(text string) (name string, labels []*dto.LabelPair, ok bool) {
	name, rest, labelled := strings.Cut(text, "{")
	if !isName(name, ":") {
		return "", nil, false
	}
	for labelled {
		labelName, after, found := strings.Cut(rest, `="`)
		if !found || !isName(labelName, "") || strings.HasPrefix(labelName, "__") {
			return "", nil, false
		}
		var value []byte
		end := -1
		for i := 0; i < len(after); i++ {
			c := after[i]
			if c == '"' {
				end = i
				break
			}
			if c == '\\' {
				if i++; i == len(after) {
					break
				}
				switch c = after[i]; c {
				case 'n':
					c = '\n'
				case '\\', '"':
				default:
					return "", nil, false
				}
			}
			value = append(value, c)
		}
		if end < 0 || !utf8.Valid(value) {
			return "", nil, false
		}
		labels = append(labels, &dto.LabelPair{Name: &labelName, Value: new(string(value))})
		rest = after[end+1:]
		if rest == "}" {
			break
		}
		if rest, found = strings.CutPrefix(rest, ","); !found {
			return "", nil, false
		}
	}
	byName := func(a, b *dto.LabelPair) int { return cmp.Compare(a.GetName(), b.GetName()) }
	slices.SortFunc(labels, byName)
	for i := 1; i < len(labels); i++ {
		if byName(labels[i-1], labels[i]) == 0 {
			return "", nil, false
		}
	}
	return name, labels, true
}

// isName reports whether s is a name of Prometheus: letters, digits and _, and
// what else is allowed, without a digit in front.
func isName(s, also string) bool {
	for i, c := range []byte(s) {
		letter := 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || strings.IndexByte(also, c) >= 0
		if !letter && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
