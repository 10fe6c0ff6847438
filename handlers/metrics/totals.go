package metrics

import "context"

// Totals are what the line of generations has counted so far.
type Totals struct {
	Requests map[string]float64 `json:"requests"` // by class: 2xx
	// Durations are the requests by time: as many as took up to each bound, and all.
	Bounds    []float64 `json:"bounds"`
	Durations []uint64  `json:"durations"`
	Count     uint64    `json:"count"`
}

// Totals returns them, with what the other generations have counted.
func (m *Metrics) Totals(ctx context.Context) Totals {
	families, _ := line{m.counts, func() map[string]float64 { return m.others(ctx) }}.Gather() // of what always can be gathered
	t := Totals{Requests: make(map[string]float64)}
	for _, f := range families {
		for _, metric := range f.Metric {
			if h := metric.Histogram; h != nil {
				t.Count = h.GetSampleCount()
				for _, b := range h.Bucket {
					t.Bounds = append(t.Bounds, b.GetUpperBound())
					t.Durations = append(t.Durations, b.GetCumulativeCount())
				}
				continue
			}
			class := "other"
			for _, l := range metric.Label {
				if code := l.GetValue(); l.GetName() == "code" && code[:min(1, len(code))] >= "1" && code[:1] <= "5" {
					class = code[:1] + "xx"
				}
			}
			t.Requests[class] += metric.Counter.GetValue()
		}
	}
	return t
}
