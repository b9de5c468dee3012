package analysis

// Cache is not there yet.
type Cache struct{}
