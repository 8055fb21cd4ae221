// Tests of the binding for Go, copied into the module: go test, with CRN_WEIGHTS set.
package crn

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
)

func open(t *testing.T) (*Model, *Session) {
	t.Helper()
	model, err := Open(os.Getenv("CRN_WEIGHTS"))
	if err != nil {
		t.Fatal(err)
	}
	session, err := model.NewSession(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		session.Close()
		model.Close()
	})
	return model, session
}

func admit(t *testing.T, session *Session) int {
	t.Helper()
	slot, err := session.Admit()
	if err != nil {
		t.Fatal(err)
	}
	return slot
}

func prefill(t *testing.T, session *Session, slot int, tokens ...int32) [][]float32 {
	t.Helper()
	rows, err := session.Prefill(slot, tokens)
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func wants(t *testing.T, err, wanted error) {
	t.Helper()
	if !errors.Is(err, wanted) {
		t.Errorf("%v instead of %v", err, wanted)
	}
}

func same(t *testing.T, given, wanted any) {
	t.Helper()
	if !reflect.DeepEqual(given, wanted) {
		t.Errorf("%v instead of %v", given, wanted)
	}
}

func TestManySlotsGiveWhatEachGivesAlone(t *testing.T) {
	_, session := open(t)
	first, second, other := admit(t, session), admit(t, session), admit(t, session)
	prefill(t, session, second, 9)
	requests := []Request{{Slot: first, Tokens: []int32{3, 4, 5}}, {Slot: second, Tokens: []int32{6}}}
	if err := session.StepMany(requests); err != nil {
		t.Fatal(err)
	}
	same(t, requests[0].Logits, prefill(t, session, other, 3, 4, 5))
	session.Reset(other)
	same(t, requests[1].Logits[0], prefill(t, session, other, 9, 6)[1])
	row, err := session.Logits(second)
	wants(t, err, nil)
	same(t, row, requests[1].Logits[0])
}

func TestRequestsFailByThemselves(t *testing.T) {
	_, session := open(t)
	slot, gone := admit(t, session), admit(t, session)
	wants(t, session.Release(gone), nil)
	requests := []Request{
		{Slot: gone, Tokens: []int32{1}},
		{Slot: slot, Tokens: []int32{2, 3}},
		{Slot: -1 << 40, Tokens: []int32{1}},
		{Slot: slot + 7},
	}
	wants(t, session.StepMany(requests), ErrNoSlot)
	for i, wanted := range []error{ErrNoSlot, nil, ErrNoSlot, ErrNoSlot} {
		wants(t, requests[i].Err, wanted)
		same(t, len(requests[i].Logits), map[bool]int{true: 2}[wanted == nil])
	}
	wants(t, session.StepMany([]Request{{Slot: slot}}), ErrWrongSize)
	wants(t, session.StepMany([]Request{{Slot: slot, Tokens: []int32{29}}}), ErrWrongToken)
	wants(t, session.StepMany(nil), ErrWrongSize)
	position, err := session.Position(slot)
	wants(t, err, nil)
	same(t, position, 2)
}

func TestStatesGoOn(t *testing.T) {
	_, session := open(t)
	slot := admit(t, session)
	prefill(t, session, slot, 3, 4)
	file, err := session.SaveBytes(slot)
	wants(t, err, nil)
	path := filepath.Join(t.TempDir(), "state")
	wants(t, session.Save(slot, path), nil)
	written, err := os.ReadFile(path)
	wants(t, err, nil)
	same(t, written, file)
	twin, err := session.Copy(slot)
	wants(t, err, nil)
	wanted := prefill(t, session, slot, 5)
	same(t, prefill(t, session, twin, 5), wanted)
	wants(t, session.LoadBytes(twin, file), nil)
	same(t, prefill(t, session, twin, 5), wanted)
	wants(t, session.Load(twin, path), nil)
	same(t, prefill(t, session, twin, 5), wanted)
	for _, wrong := range [][]byte{nil, file[:len(file)-1], file[:5]} {
		wants(t, session.LoadBytes(twin, wrong), ErrNotState)
	}
	wants(t, session.Load(twin, path+"\x00"), ErrNoFile)
	wants(t, session.Load(twin, path+"x"), ErrNoFile)
	wants(t, session.Save(twin, filepath.Join(path, "x")), ErrNotWritten)
	wants(t, session.Save(twin, "\x00"), ErrNotWritten)
}

func TestModels(t *testing.T) {
	content, err := os.ReadFile(os.Getenv("CRN_WEIGHTS"))
	wants(t, err, nil)
	model, err := OpenBytes(content)
	wants(t, err, nil)
	defer model.Close()
	info, err := model.Info()
	wants(t, err, nil)
	same(t, []any{info.Vocabulary, info.Capacity, info.Prefix, info.WeightsBytes}, []any{29, 40, "copier", uint64(len(content))})
	kernel, err := model.UseKernel(Portable)
	wants(t, err, nil)
	same(t, kernel, Portable)
	for _, wrong := range [][]byte{nil, content[:len(content)-1]} {
		_, err := OpenBytes(wrong)
		wants(t, err, ErrTruncated)
	}
	_, err = OpenBytes([]byte("a text that is longer than any header of weights, and says nothing of what a model has"))
	wants(t, err, ErrNotWeights)
	_, err = OpenInline()
	wants(t, err, ErrNotInline)
	_, err = Open("weights\x00.bin")
	wants(t, err, ErrNoFile)
	for _, capacity := range []int{-1, 41, 1 << 40} {
		_, err = model.NewSession(capacity)
		wants(t, err, ErrWrongSize)
	}
	same(t, ErrFull.Error(), "no position is left")
}

func TestClosedOnesAreErrors(t *testing.T) {
	model, session := open(t)
	slot := admit(t, session)
	wants(t, model.Close(), nil) // the session goes on
	prefill(t, session, slot, 3)
	_, err := model.NewSession(0)
	wants(t, err, ErrClosed)
	wants(t, session.Close(), nil)
	wants(t, session.Close(), nil)
	wants(t, model.Close(), nil)
	_, err = session.Step(slot, 3)
	wants(t, err, ErrClosed)
	requests := []Request{{Slot: slot, Tokens: []int32{3}}}
	wants(t, session.StepMany(requests), ErrClosed)
	wants(t, requests[0].Err, ErrClosed)
	_, err = model.Info()
	wants(t, err, ErrClosed)
	_, err = model.UseKernel(Best)
	wants(t, err, ErrClosed)
	_, err = session.MemoryBytes()
	wants(t, err, ErrClosed)
}

func TestGoroutines(t *testing.T) {
	model, shared := open(t)
	slot := admit(t, shared)
	wanted := prefill(t, shared, slot, 3, 4, 5)
	var group sync.WaitGroup
	for i := 0; i < 4; i++ {
		group.Add(1)
		go func() {
			defer group.Done()
			session, err := model.NewSession(0)
			if err != nil {
				t.Error(err)
				return
			}
			defer session.Close()
			for range [5]int{} {
				own, err := session.Admit()
				wants(t, err, nil)
				rows, err := session.Prefill(own, []int32{3, 4, 5})
				wants(t, err, nil)
				same(t, rows, wanted)
				_, err = shared.Admit()
				wants(t, err, nil)
			}
		}()
	}
	group.Wait()
}
