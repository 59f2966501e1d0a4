// Bento with two plugins only: its mqtt input and its kafka outputs. A peer of covey's gateway in
// benchmarks/bench_gateway.py; README.md says why Bento stands for Redpanda Connect.
package main

import (
	"context"

	"github.com/warpstreamlabs/bento/public/service"

	_ "github.com/warpstreamlabs/bento/public/components/kafka"
	_ "github.com/warpstreamlabs/bento/public/components/mqtt"
	_ "github.com/warpstreamlabs/bento/public/components/pure"
)

func main() { service.RunCLI(context.Background()) }
