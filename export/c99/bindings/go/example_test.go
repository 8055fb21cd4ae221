package crn_test

import (
	"errors"
	"fmt"
	"log"

	crn "crn_causalrn"
)

// Two prompts at once, each in a slot of its own; the second one goes on later from where it was.
func Example() {
	model, err := crn.Open("weights.bin")
	if err != nil {
		log.Fatal(err)
	}
	defer model.Close()
	session, err := model.NewSession(0)
	if err != nil {
		log.Fatal(err)
	}
	defer session.Close()
	requests := []crn.Request{
		{Tokens: []int32{0, 3, 4, 5, 1}},
		{Tokens: []int32{0, 26, 27, 1}},
	}
	for i := range requests {
		if requests[i].Slot, err = session.Admit(); err != nil {
			log.Fatal(err)
		}
	}
	if err := session.StepMany(requests); errors.Is(err, crn.ErrFull) {
		fmt.Println("no position is left for one of them")
	}
	for _, request := range requests {
		if request.Err == nil {
			fmt.Println(len(request.Logits), "rows of logits")
		}
	}
	if err := session.Save(requests[1].Slot, "second.safetensors"); err != nil {
		log.Fatal(err)
	}
}
