package upgrade

// Outcomes counts the requests of one generation since its beginning, by how they ended.
type Outcomes struct {
	Started    uint64 `json:"started"`
	Answered   uint64 `json:"answered"`
	Ended      uint64 `json:"ended"`
	Failed     uint64 `json:"failed"`
	Denied     uint64 `json:"denied"`
	Redirected uint64 `json:"redirected"`
	Empty      uint64 `json:"empty"`
}
