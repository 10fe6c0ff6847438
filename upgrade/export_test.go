package upgrade

import "example.com/baton/upgrade/internal/link"

// SetProtocol makes this process a release that speaks a version of the link.
func SetProtocol(version string) { link.Protocol = version }
