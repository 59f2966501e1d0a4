package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"

	mqtt "github.com/eclipse/paho.mqtt.golang"
)

// sayReady prints "ready" on stdout at the first SUBACK, as the MQTT library tells its debug logger; the program itself
// has no word for it. The library builds the arguments of that logger with or without us, and afterwards each call
// costs one comparison.
type sayReady struct {
	once sync.Once
	out  io.Writer
}

func (s *sayReady) Println(words ...interface{}) {
	if len(words) < 2 {
		return
	}
	text, ok := words[1].(string)
	if ok && len(text) < 50 && strings.Contains(text, "received suback") {
		s.once.Do(func() { fmt.Fprintln(s.out, "ready") })
	}
}

func (*sayReady) Printf(string, ...interface{}) {}

func init() {
	mqtt.DEBUG = &sayReady{out: os.Stdout}
	os.Stdout = os.Stderr // where Bento then writes its log
}
