// Package crn runs a model that causalrn-export wrote as C. The C source lies beside this file and is compiled with it:
// the folder is a module that can be moved, vendored or published as it is. Needs cgo and a C compiler.
//
//	import crn "crn_causalrn" // in go.mod: replace crn_causalrn => ./causalrn/bindings/go
//
//	model, err := crn.Open("weights.bin")
//	if err != nil {
//		return err
//	}
//	defer model.Close()
//	session, err := model.NewSession(0)
//	if err != nil {
//		return err
//	}
//	defer session.Close()
//	slot, err := session.Admit()
//	rows, err := session.Prefill(slot, []int32{0, 3, 4, 5, 1}) // five rows of logits
//
// Errors of the library are of type [Code], so that errors.Is(err, crn.ErrFull) tells them apart. A call that fails has
// changed nothing. Models and sessions may be used by any number of goroutines; calls to one session wait for each other,
// and sessions of one model compute side by side.
package crn

/*
#cgo CFLAGS: -std=c99 -O3
#cgo !windows LDFLAGS: -lm
#include "causalrn_api.h"
#include <stdlib.h>

// Go calls no function pointers.
static int open_file(const char *path, crn_model **model) { return causalrn_api()->open_file(path, model); }
static int open_memory(const void *file, size_t size, crn_model **model)
{
	return causalrn_api()->open_memory(file, size, model);
}
static int open_inline(crn_model **model) { return causalrn_api()->open_inline(model); }
static void close_model(crn_model *model) { causalrn_api()->close(model); }
static int info(const crn_model *model, crn_info *info) { return causalrn_api()->info(model, info); }
static int kernel(crn_model *model, int kernel) { return causalrn_api()->kernel(model, kernel); }
static int open_session(const crn_model *model, int32_t capacity, crn_session **session)
{
	return causalrn_api()->open(model, capacity, session);
}
static void close_session(crn_session *session) { causalrn_api()->close_session(session); }
static int admit(crn_session *session, int32_t *slot) { return causalrn_api()->admit(session, slot); }
static int release(crn_session *session, int32_t slot) { return causalrn_api()->release(session, slot); }
static int reset(crn_session *session, int32_t slot) { return causalrn_api()->reset(session, slot); }
static int copy_slot(crn_session *session, int32_t from, int32_t *slot) { return causalrn_api()->copy(session, from, slot); }
static int position(const crn_session *session, int32_t slot, int32_t *position)
{
	return causalrn_api()->position(session, slot, position);
}
static int logits(const crn_session *session, int32_t slot, float *row) { return causalrn_api()->logits(session, slot, row); }
static size_t memory(const crn_session *session) { return causalrn_api()->memory(session); }
static int prefill(crn_session *session, int32_t slot, const int32_t *tokens, int32_t time, float *rows)
{
	return causalrn_api()->prefill(session, slot, tokens, time, rows);
}
static int step_many(crn_session *session, crn_request *requests, int32_t number)
{
	return causalrn_api()->step_many(session, requests, number);
}
static int save(const crn_session *session, int32_t slot, const char *path) { return causalrn_api()->save(session, slot, path); }
static int load(crn_session *session, int32_t slot, const char *path) { return causalrn_api()->load(session, slot, path); }
static int save_memory(const crn_session *session, int32_t slot, void *file, size_t *size)
{
	return causalrn_api()->save_memory(session, slot, file, size);
}
static int load_memory(crn_session *session, int32_t slot, const void *file, size_t size)
{
	return causalrn_api()->load_memory(session, slot, file, size);
}
static const char *message(int code) { return causalrn_api()->message(code); }
*/
import "C"

import (
	"errors"
	"math"
	"strings"
	"sync"
	"unsafe"
)

// Code is an error of the library, as crn_api.h numbers them.
type Code int32

// The codes of crn_api.h.
const (
	ErrNotWeights      Code = C.CRN_NOT_WEIGHTS
	ErrWrongEndianness Code = C.CRN_WRONG_ENDIANNESS
	ErrWrongVersion    Code = C.CRN_WRONG_VERSION
	ErrWrongModel      Code = C.CRN_WRONG_MODEL
	ErrTruncated       Code = C.CRN_TRUNCATED
	ErrOversized       Code = C.CRN_OVERSIZED
	ErrDamaged         Code = C.CRN_DAMAGED
	ErrMisaligned      Code = C.CRN_MISALIGNED
	ErrTooSmall        Code = C.CRN_TOO_SMALL
	ErrWrongToken      Code = C.CRN_WRONG_TOKEN
	ErrFull            Code = C.CRN_FULL
	ErrNotFinite       Code = C.CRN_NOT_FINITE
	ErrWrongSize       Code = C.CRN_WRONG_SIZE
	ErrMixed           Code = C.CRN_MIXED
	ErrNoMemory        Code = C.CRN_NO_MEMORY
	ErrNoFile          Code = C.CRN_NO_FILE
	ErrNotWritten      Code = C.CRN_NOT_WRITTEN
	ErrNoSlot          Code = C.CRN_NO_SLOT
	ErrNoLogits        Code = C.CRN_NO_LOGITS
	ErrNotState        Code = C.CRN_NOT_STATE
	ErrOtherCheckpoint Code = C.CRN_OTHER_CHECKPOINT
	ErrOtherArithmetic Code = C.CRN_OTHER_ARITHMETIC
	ErrNotInline       Code = C.CRN_NOT_INLINE
)

// ErrClosed is given by calls to a model or a session that has been closed.
var ErrClosed = errors.New("the model or session is closed")

// Error says what the code means.
func (code Code) Error() string { return C.GoString(C.message(C.int(code))) }

// failure is the error of a code; nil for CRN_OK.
func failure(code C.int) error {
	if code == C.CRN_OK {
		return nil
	}
	return Code(code)
}

// Kernel is code for one kind of processor.
type Kernel int32

// Kernels, and the best one that the machine has.
const (
	Best     Kernel = C.CRN_BEST
	Portable Kernel = C.CRN_PORTABLE
	AVX2     Kernel = C.CRN_AVX2
	AVX512   Kernel = C.CRN_AVX512
)

// Info is what a model is.
type Info struct {
	Model         uint32 // number that ties source and weights together
	Vocabulary    int    // number of token ids
	Capacity      int    // most positions; 0: no bound
	Blocks        int
	Hidden        int
	HasPool       bool   // the state grows by a row per block and token
	StateBytes    uint64 // of a slot's state, at once
	PositionBytes uint64 // and for every position
	WeightsBytes  uint64
	Prefix        string
	Checkpoint    string // SHA-256 of what was exported, in hexadecimal
	Arithmetic    string
	Alphabet      string // "letters", "bytes" or ""
	Kernel        Kernel // of sessions that are opened from now on
	KernelName    string
}

// Model is weights, and the kernel that reads them.
type Model struct {
	mutex    sync.Mutex
	handle   *C.crn_model
	sessions int
	isClosed bool
}

// Open reads a weights file.
func Open(path string) (*Model, error) {
	name, err := pathOf(path, ErrNoFile)
	if err != nil {
		return nil, err
	}
	defer C.free(unsafe.Pointer(name))
	return opened(func(handle **C.crn_model) C.int { return C.open_file(name, handle) })
}

// OpenBytes takes the content of a weights file, which is copied.
func OpenBytes(file []byte) (*Model, error) {
	return opened(func(handle **C.crn_model) C.int {
		return C.open_memory(place(file), C.size_t(len(file)), handle)
	})
}

// OpenInline takes the weights that are compiled in, where the model was exported with --weights inline.
func OpenInline() (*Model, error) {
	return opened(func(handle **C.crn_model) C.int { return C.open_inline(handle) })
}

func opened(open func(handle **C.crn_model) C.int) (*Model, error) {
	model := new(Model)
	var handle *C.crn_model
	if err := failure(open(&handle)); err != nil {
		return nil, err
	}
	model.handle = handle
	return model, nil
}

// Info says what the model is.
func (m *Model) Info() (Info, error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.isClosed {
		return Info{}, ErrClosed
	}
	var raw C.crn_info
	raw.size = C.uint32_t(unsafe.Sizeof(raw))
	if err := failure(C.info(m.handle, &raw)); err != nil {
		return Info{}, err
	}
	return Info{
		Model:         uint32(raw.model),
		Vocabulary:    int(raw.vocabulary),
		Capacity:      int(raw.capacity),
		Blocks:        int(raw.blocks),
		Hidden:        int(raw.hidden),
		HasPool:       raw.has_pool != 0,
		StateBytes:    uint64(raw.state_bytes),
		PositionBytes: uint64(raw.position_bytes),
		WeightsBytes:  uint64(raw.weights_bytes),
		Prefix:        C.GoString(raw.prefix),
		Checkpoint:    C.GoString(raw.checkpoint),
		Arithmetic:    C.GoString(raw.arithmetic),
		Alphabet:      C.GoString(raw.alphabet),
		Kernel:        Kernel(raw.kernel),
		KernelName:    C.GoString(raw.kernel_name),
	}, nil
}

// UseKernel has sessions that are opened from now on use a kernel; gives which: no more than the machine has.
func (m *Model) UseKernel(kernel Kernel) (Kernel, error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.isClosed {
		return 0, ErrClosed
	}
	return Kernel(C.kernel(m.handle, C.int(kernel))), nil
}

// NewSession opens a session whose slots hold at most so many positions; 0: as many as the model has.
func (m *Model) NewSession(capacity int) (*Session, error) {
	info, err := m.Info()
	if err != nil {
		return nil, err
	}
	if capacity < 0 || capacity > math.MaxInt32 {
		return nil, ErrWrongSize
	}
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.isClosed {
		return nil, ErrClosed
	}
	var handle *C.crn_session
	if err := failure(C.open_session(m.handle, C.int32_t(capacity), &handle)); err != nil {
		return nil, err
	}
	m.sessions++
	return &Session{handle: handle, model: m, vocabulary: info.Vocabulary}, nil
}

// Close gives the weights back, once the model's last session is closed, too. Closing it again does nothing.
func (m *Model) Close() error {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.isClosed = true
	m.freeIfUnused()
	return nil
}

func (m *Model) leave() {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.sessions--
	m.freeIfUnused()
}

func (m *Model) freeIfUnused() {
	if m.isClosed && m.sessions == 0 && m.handle != nil {
		C.close_model(m.handle)
		m.handle = nil
	}
}

// Session is slots: sequences of one model, each at its own position.
type Session struct {
	mutex      sync.Mutex
	handle     *C.crn_session // nil: closed
	model      *Model
	vocabulary int
}

// call has the session to itself.
func (s *Session) call(do func(handle *C.crn_session) C.int) error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.handle == nil {
		return ErrClosed
	}
	return failure(do(s.handle))
}

// slotCall is a call for a slot; of numbers that cannot be slots, no call.
func (s *Session) slotCall(slot int, do func(handle *C.crn_session, slot C.int32_t) C.int) error {
	return s.call(func(handle *C.crn_session) C.int {
		if slot < 0 || slot > math.MaxInt32 {
			return C.CRN_NO_SLOT
		}
		return do(handle, C.int32_t(slot))
	})
}

// Close frees all slots. Closing a session again does nothing.
func (s *Session) Close() error {
	s.mutex.Lock()
	defer s.mutex.Unlock()
	if s.handle != nil {
		C.close_session(s.handle)
		s.handle = nil
		s.model.leave()
	}
	return nil
}

// Vocabulary is the length of a row of logits.
func (s *Session) Vocabulary() int { return s.vocabulary }

// Admit gives a slot with a fresh sequence.
func (s *Session) Admit() (int, error) {
	var slot C.int32_t
	err := s.call(func(handle *C.crn_session) C.int { return C.admit(handle, &slot) })
	return int(slot), err
}

// Copy gives a new slot with the state of another one.
func (s *Session) Copy(slot int) (int, error) {
	var made C.int32_t
	err := s.slotCall(slot, func(handle *C.crn_session, slot C.int32_t) C.int { return C.copy_slot(handle, slot, &made) })
	return int(made), err
}

// Release ends a sequence; the slot's number comes again.
func (s *Session) Release(slot int) error {
	return s.slotCall(slot, func(handle *C.crn_session, slot C.int32_t) C.int { return C.release(handle, slot) })
}

// Reset forgets what a slot holds.
func (s *Session) Reset(slot int) error {
	return s.slotCall(slot, func(handle *C.crn_session, slot C.int32_t) C.int { return C.reset(handle, slot) })
}

// Position is the number of tokens that a slot has taken.
func (s *Session) Position(slot int) (int, error) {
	var position C.int32_t
	err := s.slotCall(slot, func(handle *C.crn_session, slot C.int32_t) C.int { return C.position(handle, slot, &position) })
	return int(position), err
}

// Logits gives a row of [Session.Vocabulary] values, after a slot's last token.
func (s *Session) Logits(slot int) ([]float32, error) {
	row := make([]float32, s.vocabulary)
	err := s.slotCall(slot, func(handle *C.crn_session, slot C.int32_t) C.int {
		return C.logits(handle, slot, (*C.float)(&row[0]))
	})
	if err != nil {
		return nil, err
	}
	return row, nil
}

// MemoryBytes is what all slots take.
func (s *Session) MemoryBytes() (uint64, error) {
	var size C.size_t
	err := s.call(func(handle *C.crn_session) C.int {
		size = C.memory(handle)
		return C.CRN_OK
	})
	return uint64(size), err
}

// Step takes one token; gives the logits of what comes next.
func (s *Session) Step(slot int, token int32) ([]float32, error) {
	rows, err := s.Prefill(slot, []int32{token})
	if err != nil {
		return nil, err
	}
	return rows[0], nil
}

// Prefill takes tokens; gives a row of logits after each of them.
func (s *Session) Prefill(slot int, tokens []int32) ([][]float32, error) {
	if len(tokens) == 0 || len(tokens) > math.MaxInt32 {
		return nil, ErrWrongSize
	}
	logits := make([]float32, len(tokens)*s.vocabulary)
	err := s.slotCall(slot, func(handle *C.crn_session, slot C.int32_t) C.int {
		return C.prefill(handle, slot, (*C.int32_t)(&tokens[0]), C.int32_t(len(tokens)), (*C.float)(&logits[0]))
	})
	if err != nil {
		return nil, err
	}
	return s.rowsOf(logits), nil
}

func (s *Session) rowsOf(logits []float32) [][]float32 {
	rows := make([][]float32, len(logits)/s.vocabulary)
	for i := range rows {
		rows[i] = logits[i*s.vocabulary : (i+1)*s.vocabulary : (i+1)*s.vocabulary]
	}
	return rows
}

// Request is tokens for one slot of [Session.StepMany].
type Request struct {
	Slot   int
	Tokens []int32
	Logits [][]float32 // what comes of it: a row after each token
	Err    error       // or why there is nothing
}

// StepMany takes tokens of any number of slots, the weights being read once for many of them; every slot gets what it would
// get alone, bit for bit. It fills in Logits and Err of the requests. One that fails has taken nothing and does not concern
// the others; given is the first error.
func (s *Session) StepMany(requests []Request) error {
	var total int
	for _, request := range requests {
		total += len(request.Tokens)
	}
	if len(requests) == 0 || total > math.MaxInt32/4 {
		return ErrWrongSize
	}
	// C memory, because requests hold pointers: one place for all of them
	size := len(requests)*int(unsafe.Sizeof(C.crn_request{})) + 4*total*(1+s.vocabulary)
	memory := C.calloc(1, C.size_t(size))
	if memory == nil {
		return ErrNoMemory
	}
	defer C.free(memory)
	raw := unsafe.Slice((*C.crn_request)(memory), len(requests))
	rest := unsafe.Add(memory, len(requests)*int(unsafe.Sizeof(raw[0])))
	tokens := unsafe.Slice((*int32)(rest), total)
	logits := unsafe.Slice((*float32)(unsafe.Add(rest, 4*total)), total*s.vocabulary)
	s.lay(requests, raw, tokens, logits)
	err := s.call(func(handle *C.crn_session) C.int {
		return C.step_many(handle, &raw[0], C.int32_t(len(raw)))
	})
	s.take(requests, raw, logits, err)
	return err
}

// lay writes requests as C has them.
func (s *Session) lay(requests []Request, raw []C.crn_request, tokens []int32, logits []float32) {
	var begin int
	for i, request := range requests {
		raw[i].slot, raw[i].time = -1, C.int32_t(len(request.Tokens))
		if request.Slot >= 0 && request.Slot <= math.MaxInt32 {
			raw[i].slot = C.int32_t(request.Slot)
		}
		if len(request.Tokens) > 0 {
			copy(tokens[begin:], request.Tokens)
			raw[i].tokens = (*C.int32_t)(&tokens[begin])
			raw[i].logits = (*C.float)(&logits[begin*s.vocabulary])
		}
		begin += len(request.Tokens)
	}
}

// take fills in what came of requests.
func (s *Session) take(requests []Request, raw []C.crn_request, logits []float32, err error) {
	for i := range requests {
		count := len(requests[i].Tokens) * s.vocabulary
		requests[i].Logits, requests[i].Err = nil, failure(raw[i].code)
		if errors.Is(err, ErrClosed) || errors.Is(err, ErrNoMemory) {
			requests[i].Err = err
		}
		if requests[i].Err == nil {
			requests[i].Logits = s.rowsOf(append([]float32(nil), logits[:count]...))
		}
		logits = logits[count:]
	}
}

// Save writes a slot's state to a file, whole or not at all.
func (s *Session) Save(slot int, path string) error {
	name, err := pathOf(path, ErrNotWritten)
	if err != nil {
		return err
	}
	defer C.free(unsafe.Pointer(name))
	return s.slotCall(slot, func(handle *C.crn_session, slot C.int32_t) C.int { return C.save(handle, slot, name) })
}

// Load goes on from a state file, of this library or of another one of the same checkpoint.
func (s *Session) Load(slot int, path string) error {
	name, err := pathOf(path, ErrNoFile)
	if err != nil {
		return err
	}
	defer C.free(unsafe.Pointer(name))
	return s.slotCall(slot, func(handle *C.crn_session, slot C.int32_t) C.int { return C.load(handle, slot, name) })
}

// SaveBytes gives what [Session.Save] writes.
func (s *Session) SaveBytes(slot int) ([]byte, error) {
	var file []byte
	err := s.slotCall(slot, func(handle *C.crn_session, slot C.int32_t) C.int {
		var size C.size_t
		if code := C.save_memory(handle, slot, nil, &size); code != C.CRN_OK {
			return code
		}
		file = make([]byte, int(size))
		return C.save_memory(handle, slot, place(file), &size)
	})
	if err != nil {
		return nil, err
	}
	return file, nil
}

// LoadBytes takes what [Session.Load] reads.
func (s *Session) LoadBytes(slot int, file []byte) error {
	return s.slotCall(slot, func(handle *C.crn_session, slot C.int32_t) C.int {
		return C.load_memory(handle, slot, place(file), C.size_t(len(file)))
	})
}

// pathOf gives a path as C has it, to be freed; or an error, where it has a NUL.
func pathOf(path string, wrong error) (*C.char, error) {
	if strings.IndexByte(path, 0) >= 0 {
		return nil, wrong
	}
	return C.CString(path), nil
}

// place is where bytes lie; somewhere, where there are none.
func place(bytes []byte) unsafe.Pointer {
	if len(bytes) == 0 {
		return unsafe.Pointer(&[1]byte{})
	}
	return unsafe.Pointer(&bytes[0])
}
