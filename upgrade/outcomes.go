package upgrade

import "example.com/baton/upgrade/internal/judge"

// Outcomes counts the requests of one generation since its beginning, by how they ended.
type Outcomes = judge.Outcomes

// Latencies is a histogram of how long requests took.
type Latencies = judge.Latencies
