// Package backend says what both backends of enforcement are told and what they promise.
package backend
