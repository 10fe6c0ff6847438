package upgrade

import "example.com/baton/upgrade/internal/judge"

// Outcomes counts the requests of one generation since its beginning, by how they ended.
type Outcomes = judge.Outcomes
