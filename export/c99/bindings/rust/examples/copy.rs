//! What the model makes of a string of letters: `cargo run --example copy WEIGHTS TEXT [STATE_IN [STATE_OUT]]`. With STATE_IN,
//! it goes on from there; STATE_OUT gets where it ends.

use crn::{Error, Model, Session};
use std::{env, process::ExitCode};

const BOS: i32 = 0;
const SEP: i32 = 1;
const EOS: i32 = 2;
const FIRST_LETTER: i32 = 3;

fn likeliest(row: &[f32]) -> i32 {
    let mut best = 0;
    for (token, logit) in row.iter().enumerate() {
        if *logit > row[best] {
            best = token;
        }
    }
    best as i32
}

fn answer(words: &[String]) -> Result<String, Error> {
    let model = Model::open(&words[0])?;
    let vocabulary = model.info().vocabulary;
    let mut session = Session::new(&model, 0)?;
    let slot = session.admit()?;
    let mut tokens = Vec::new();
    match words.get(2) {
        Some(state) => session.load(slot, state)?,
        None => tokens.push(BOS),
    }
    tokens.extend(words[1].bytes().map(|letter| i32::from(letter) - i32::from(b'a') + FIRST_LETTER));
    tokens.push(SEP);
    let mut logits = session.prefill(slot, &tokens)?;
    let mut text = String::new();
    for _ in 0..words[1].len() {
        let token = likeliest(&logits[logits.len() - vocabulary..]);
        if token == EOS {
            break;
        }
        if token >= FIRST_LETTER {
            text.push((b'a' + (token - FIRST_LETTER) as u8) as char);
        }
        logits = session.step(slot, token)?;
    }
    if let Some(state) = words.get(3) {
        session.save(slot, state)?;
    }
    Ok(text)
}

fn main() -> ExitCode {
    let words: Vec<String> = env::args().skip(1).collect();
    if words.len() < 2 {
        eprintln!("usage: copy WEIGHTS TEXT [STATE_IN [STATE_OUT]]");
        return ExitCode::from(2);
    }
    match answer(&words) {
        Ok(text) => println!("{text}"),
        Err(error) => {
            eprintln!("error {}: {error}", error.0);
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
