module example.com/app

go 1.18

require (
	example.com/dial v0.2.0
	example.com/files v1.2.3
	example.com/run v0.0.1
)
