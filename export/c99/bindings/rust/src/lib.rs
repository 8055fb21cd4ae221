//! A model that causalrn-export wrote as C.
//!
//! ```no_run
//! let model = crn::Model::open("weights.bin")?;
//! let mut session = crn::Session::new(&model, 0)?;
//! let slot = session.admit()?;
//! let logits = session.prefill(slot, &[0, 3, 4, 5, 1])?; // [5][vocabulary]
//! # Ok::<(), crn::Error>(())
//! ```
//!
//! Calls that fail have changed nothing. A model may be used by any number of threads, a session by one at a time. Needs no
//! standard library but for `alloc`; the C source brings `malloc` and files.

#![cfg_attr(not(feature = "std"), no_std)]
extern crate alloc;

use alloc::{ffi::CString, string::String, vec, vec::Vec};
use core::ffi::{c_char, c_int, c_void, CStr};
use core::{fmt, marker::PhantomData, mem, ptr};

#[repr(C)]
struct RawModel(c_void);
#[repr(C)]
struct RawSession(c_void);

/// What a model is: `crn_info`.
#[repr(C)]
struct RawInfo {
    size: u32,
    model: u32,
    vocabulary: i32,
    capacity: i32,
    blocks: i32,
    hidden: i32,
    has_pool: i32,
    kernel: i32,
    state_bytes: u64,
    position_bytes: u64,
    weights_bytes: u64,
    prefix: *const c_char,
    checkpoint: *const c_char,
    arithmetic: *const c_char,
    alphabet: *const c_char,
    kernel_name: *const c_char,
}

#[repr(C)]
struct RawRequest {
    slot: i32,
    time: i32,
    tokens: *const i32,
    logits: *mut f32,
    code: i32,
}

type Slot = unsafe extern "C" fn(*mut RawSession, i32) -> c_int;

/// `crn_api`, version 1.
#[repr(C)]
struct Api {
    version: u32,
    size: u32,
    open_file: unsafe extern "C" fn(*const c_char, *mut *mut RawModel) -> c_int,
    open_memory: unsafe extern "C" fn(*const c_void, usize, *mut *mut RawModel) -> c_int,
    open_inline: unsafe extern "C" fn(*mut *mut RawModel) -> c_int,
    close: unsafe extern "C" fn(*mut RawModel),
    info: unsafe extern "C" fn(*const RawModel, *mut RawInfo) -> c_int,
    kernel: unsafe extern "C" fn(*mut RawModel, c_int) -> c_int,
    open: unsafe extern "C" fn(*const RawModel, i32, *mut *mut RawSession) -> c_int,
    close_session: unsafe extern "C" fn(*mut RawSession),
    admit: unsafe extern "C" fn(*mut RawSession, *mut i32) -> c_int,
    release: Slot,
    reset: Slot,
    copy: unsafe extern "C" fn(*mut RawSession, i32, *mut i32) -> c_int,
    position: unsafe extern "C" fn(*const RawSession, i32, *mut i32) -> c_int,
    logits: unsafe extern "C" fn(*const RawSession, i32, *mut f32) -> c_int,
    memory: unsafe extern "C" fn(*const RawSession) -> usize,
    step: unsafe extern "C" fn(*mut RawSession, i32, i32, *mut f32) -> c_int,
    prefill: unsafe extern "C" fn(*mut RawSession, i32, *const i32, i32, *mut f32) -> c_int,
    step_many: unsafe extern "C" fn(*mut RawSession, *mut RawRequest, i32) -> c_int,
    save: unsafe extern "C" fn(*const RawSession, i32, *const c_char) -> c_int,
    load: unsafe extern "C" fn(*mut RawSession, i32, *const c_char) -> c_int,
    save_memory: unsafe extern "C" fn(*const RawSession, i32, *mut c_void, *mut usize) -> c_int,
    load_memory: unsafe extern "C" fn(*mut RawSession, i32, *const c_void, usize) -> c_int,
    message: unsafe extern "C" fn(c_int) -> *const c_char,
}

include!(concat!(env!("OUT_DIR"), "/prefix.rs"));

fn api() -> &'static Api {
    // SAFETY: the table is a constant of the library that is linked.
    unsafe { &*model_api() }
}

/// A call that failed; the code is one of crn_api.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error(pub i32);

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // SAFETY: messages are constant strings.
        let words = unsafe { CStr::from_ptr((api().message)(self.0)) };
        out.write_str(words.to_str().unwrap_or("unknown error"))
    }
}

#[cfg(feature = "std")]
impl std::error::Error for Error {}

const NO_FILE: i32 = 33;

fn check(code: c_int) -> Result<(), Error> {
    if code == 0 {
        Ok(())
    } else {
        Err(Error(code))
    }
}

fn words(text: *const c_char) -> String {
    // SAFETY: the library gives constant strings.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

fn path_of(path: &str) -> Result<CString, Error> {
    CString::new(path).map_err(|_| Error(NO_FILE))
}

/// What a model is.
#[derive(Clone, Debug)]
pub struct Info {
    /// Number that ties source and weights together.
    pub model: u32,
    /// Number of token ids.
    pub vocabulary: usize,
    /// Most positions; None without a bound.
    pub capacity: Option<usize>,
    /// Bytes of a slot's state: at once, and for every position.
    pub state_bytes: u64,
    pub position_bytes: u64,
    /// SHA-256 of the weights that were exported.
    pub checkpoint: String,
    pub arithmetic: String,
    /// "letters", "bytes" or "".
    pub alphabet: String,
    /// The kernel in use.
    pub kernel: String,
}

/// Weights, and the kernel that reads them.
pub struct Model(*mut RawModel);

// SAFETY: a model is only read once it is open; changing its kernel needs it alone.
unsafe impl Send for Model {}
unsafe impl Sync for Model {}

impl Model {
    /// Of a weights file.
    pub fn open(path: &str) -> Result<Self, Error> {
        let path = path_of(path)?;
        // SAFETY: the string and the place live through the call.
        Self::opened(|model| unsafe { (api().open_file)(path.as_ptr(), model) })
    }

    /// Of the content of one, which is copied.
    pub fn from_bytes(file: &[u8]) -> Result<Self, Error> {
        // SAFETY: the bytes and the place live through the call.
        Self::opened(|model| unsafe { (api().open_memory)(file.as_ptr().cast(), file.len(), model) })
    }

    /// Of the weights that are compiled in.
    pub fn inline() -> Result<Self, Error> {
        // SAFETY: the place lives through the call.
        Self::opened(|model| unsafe { (api().open_inline)(model) })
    }

    fn opened(open: impl FnOnce(*mut *mut RawModel) -> c_int) -> Result<Self, Error> {
        let mut model = ptr::null_mut();
        check(open(&mut model))?;
        Ok(Self(model))
    }

    /// What it is.
    pub fn info(&self) -> Info {
        // SAFETY: all zeros are numbers and null pointers; the call fills all of it.
        let mut raw: RawInfo = unsafe { mem::zeroed() };
        raw.size = mem::size_of::<RawInfo>() as u32;
        // SAFETY: the model is open.
        unsafe { (api().info)(self.0, &mut raw) };
        Info {
            model: raw.model,
            vocabulary: raw.vocabulary as usize,
            capacity: (raw.capacity > 0).then_some(raw.capacity as usize),
            state_bytes: raw.state_bytes,
            position_bytes: raw.position_bytes,
            checkpoint: words(raw.checkpoint),
            arithmetic: words(raw.arithmetic),
            alphabet: words(raw.alphabet),
            kernel: words(raw.kernel_name),
        }
    }

    /// Has sessions that are opened from now on use a kernel, -1 for the best; gives which.
    pub fn use_kernel(&mut self, kernel: i32) -> i32 {
        // SAFETY: the model is open, and nobody else uses it.
        unsafe { (api().kernel)(self.0, kernel) }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // SAFETY: sessions borrow the model, so that none is left.
        unsafe { (api().close)(self.0) }
    }
}

/// Slots: sequences of one model, each at its own position.
pub struct Session<'m> {
    raw: *mut RawSession,
    vocabulary: usize,
    model: PhantomData<&'m Model>,
}

// SAFETY: a session does not care which thread calls it, as long as one does at a time.
unsafe impl Send for Session<'_> {}

impl<'m> Session<'m> {
    /// No slot holds more than `capacity` positions; 0: as many as the model has.
    pub fn new(model: &'m Model, capacity: i32) -> Result<Self, Error> {
        let mut raw = ptr::null_mut();
        // SAFETY: the model is open, and outlives the session.
        check(unsafe { (api().open)(model.0, capacity, &mut raw) })?;
        Ok(Self { raw, vocabulary: model.info().vocabulary, model: PhantomData })
    }

    /// A slot with a fresh sequence.
    pub fn admit(&mut self) -> Result<i32, Error> {
        let mut slot = 0;
        // SAFETY: here and below, the session is open, and places live through the call.
        check(unsafe { (api().admit)(self.raw, &mut slot) })?;
        Ok(slot)
    }

    /// A new slot with the state of another one.
    pub fn copy(&mut self, slot: i32) -> Result<i32, Error> {
        let mut made = 0;
        check(unsafe { (api().copy)(self.raw, slot, &mut made) })?;
        Ok(made)
    }

    pub fn release(&mut self, slot: i32) -> Result<(), Error> {
        check(unsafe { (api().release)(self.raw, slot) })
    }

    pub fn reset(&mut self, slot: i32) -> Result<(), Error> {
        check(unsafe { (api().reset)(self.raw, slot) })
    }

    /// Tokens that a slot has taken.
    pub fn position(&self, slot: i32) -> Result<i32, Error> {
        let mut position = 0;
        check(unsafe { (api().position)(self.raw, slot, &mut position) })?;
        Ok(position)
    }

    /// [vocabulary] after a slot's last token.
    pub fn logits(&self, slot: i32) -> Result<Vec<f32>, Error> {
        let mut row = vec![0.0; self.vocabulary];
        check(unsafe { (api().logits)(self.raw, slot, row.as_mut_ptr()) })?;
        Ok(row)
    }

    /// Bytes that all slots take.
    pub fn memory(&self) -> usize {
        unsafe { (api().memory)(self.raw) }
    }

    /// One token; gives [vocabulary].
    pub fn step(&mut self, slot: i32, token: i32) -> Result<Vec<f32>, Error> {
        self.prefill(slot, &[token])
    }

    /// Tokens of one slot; gives [tokens][vocabulary].
    pub fn prefill(&mut self, slot: i32, tokens: &[i32]) -> Result<Vec<f32>, Error> {
        self.step_many(&[(slot, tokens)]).remove(0)
    }

    /// Tokens of any number of slots, weights being read once for many. One that fails does not concern the others.
    pub fn step_many(&mut self, tokens: &[(i32, &[i32])]) -> Vec<Result<Vec<f32>, Error>> {
        let mut rows: Vec<Vec<f32>> = tokens.iter().map(|(_, ids)| vec![0.0; ids.len() * self.vocabulary]).collect();
        let mut requests: Vec<RawRequest> = tokens
            .iter()
            .zip(&mut rows)
            .map(|((slot, ids), logits)| RawRequest {
                slot: *slot,
                time: i32::try_from(ids.len()).unwrap_or(i32::MAX),
                tokens: ids.as_ptr(),
                logits: logits.as_mut_ptr(),
                code: 0,
            })
            .collect();
        unsafe { (api().step_many)(self.raw, requests.as_mut_ptr(), requests.len() as i32) };
        requests.iter().zip(rows).map(|(request, logits)| check(request.code).map(|()| logits)).collect()
    }

    /// Write a slot's state to a file, whole or not at all.
    pub fn save(&self, slot: i32, path: &str) -> Result<(), Error> {
        let path = path_of(path)?;
        check(unsafe { (api().save)(self.raw, slot, path.as_ptr()) })
    }

    /// Go on from a state file, of this model in C or in any other form.
    pub fn load(&mut self, slot: i32, path: &str) -> Result<(), Error> {
        let path = path_of(path)?;
        check(unsafe { (api().load)(self.raw, slot, path.as_ptr()) })
    }

    /// What `save` writes.
    pub fn to_bytes(&self, slot: i32) -> Result<Vec<u8>, Error> {
        let mut size = 0;
        check(unsafe { (api().save_memory)(self.raw, slot, ptr::null_mut(), &mut size) })?;
        let mut file = vec![0; size];
        check(unsafe { (api().save_memory)(self.raw, slot, file.as_mut_ptr().cast(), &mut size) })?;
        Ok(file)
    }

    /// What `load` reads.
    pub fn load_bytes(&mut self, slot: i32, file: &[u8]) -> Result<(), Error> {
        check(unsafe { (api().load_memory)(self.raw, slot, file.as_ptr().cast(), file.len()) })
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        // SAFETY: the session is open, and used no more.
        unsafe { (api().close_session)(self.raw) }
    }
}
