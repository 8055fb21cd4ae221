// Copystring prints what the model makes of a string of letters:
//
//	go run ./copystring WEIGHTS TEXT [STATE_IN [STATE_OUT]]
//
// With STATE_IN, it goes on from there; STATE_OUT gets where it ends.
package main

import (
	"errors"
	"fmt"
	"os"

	crn "crn_causalrn"
)

const (
	bos         = 0
	sep         = 1
	eos         = 2
	firstLetter = 3
)

func likeliest(row []float32) int32 {
	best := 0
	for token, logit := range row {
		if logit > row[best] {
			best = token
		}
	}
	return int32(best)
}

// answer gives what follows a text, and leaves the slot behind it.
func answer(session *crn.Session, slot int, tokens []int32, most int) (string, error) {
	rows, err := session.Prefill(slot, tokens)
	if err != nil {
		return "", err
	}
	row, text := rows[len(rows)-1], ""
	for i := 0; i < most; i++ {
		token := likeliest(row)
		if token == eos {
			break
		}
		if token >= firstLetter {
			text += string(rune('a' + token - firstLetter))
		}
		if row, err = session.Step(slot, token); err != nil {
			return "", err
		}
	}
	return text, nil
}

func run(weights, text string, states []string) (string, error) {
	model, err := crn.Open(weights)
	if err != nil {
		return "", err
	}
	defer model.Close()
	session, err := model.NewSession(0)
	if err != nil {
		return "", err
	}
	defer session.Close()
	slot, err := session.Admit()
	if err != nil {
		return "", err
	}
	tokens := []int32{bos}
	if len(states) > 0 {
		tokens = nil
		if err := session.Load(slot, states[0]); err != nil {
			return "", err
		}
	}
	for _, letter := range []byte(text) {
		tokens = append(tokens, int32(letter)-'a'+firstLetter)
	}
	copied, err := answer(session, slot, append(tokens, sep), len(text))
	if err == nil && len(states) > 1 {
		err = session.Save(slot, states[1])
	}
	return copied, err
}

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: copystring WEIGHTS TEXT [STATE_IN [STATE_OUT]]")
		os.Exit(2)
	}
	copied, err := run(os.Args[1], os.Args[2], os.Args[3:])
	var code crn.Code
	if errors.As(err, &code) {
		fmt.Fprintf(os.Stderr, "error %d: %v\n", code, err)
		os.Exit(1)
	}
	fmt.Println(copied)
}
