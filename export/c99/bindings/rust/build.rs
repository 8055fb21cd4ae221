//! Compiles the C source that causalrn-export wrote. `CRN_SOURCE` names its folder; else it is the one two above this crate,
//! where `export` puts it. `CC` and `AR` name other tools.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

const API: &str = "_api.c";

fn main() {
    let source = env::var_os("CRN_SOURCE").map_or_else(|| PathBuf::from("../.."), PathBuf::from);
    let prefix = prefix_of(&source);
    let output = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let objects: Vec<PathBuf> = [format!("{prefix}.c"), format!("{prefix}{API}")]
        .iter()
        .map(|name| compiled(&source.join(name), &prefix, &output))
        .collect();
    let library = output.join("libcrn_model.a");
    let archiver = env::var("AR").unwrap_or_else(|_| "ar".into());
    run(Command::new(archiver).arg("rcs").arg(&library).args(&objects));
    let declaration = format!(
        "extern \"C\" {{\n    /// The model's table of functions.\n    #[link_name = \"{prefix}_api\"]\n    \
         fn model_api() -> *const Api;\n}}\n"
    );
    fs::write(output.join("prefix.rs"), declaration).expect("OUT_DIR can be written to");
    println!("cargo:rustc-link-search=native={}", output.display());
    println!("cargo:rustc-link-lib=static=crn_model");
    println!("cargo:rustc-link-lib=m");
    println!("cargo:rerun-if-env-changed=CRN_SOURCE");
    println!("cargo:rerun-if-changed={}", source.display());
}

/// What the names of the source begin with.
fn prefix_of(source: &Path) -> String {
    let entries = fs::read_dir(source).unwrap_or_else(|error| panic!("CRN_SOURCE {}: {error}", source.display()));
    let names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(API).map(str::to_owned))
        .collect();
    match names.as_slice() {
        [prefix] => prefix.clone(),
        _ => panic!("{} holds no C source of causalrn-export: set CRN_SOURCE to its folder", source.display()),
    }
}

fn compiled(file: &Path, prefix: &str, output: &Path) -> PathBuf {
    let object = output.join(file.with_extension("o").file_name().expect("a file has a name"));
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".into());
    let flags = env::var("CFLAGS").unwrap_or_else(|_| "-O3".into());
    run(Command::new(compiler)
        .args(["-std=c99", "-fPIC", "-fvisibility=hidden"])
        .args(flags.split_whitespace())
        .arg(format!("-D{}_PLAIN_API", prefix.to_uppercase()))
        .arg("-c")
        .arg(file)
        .arg("-o")
        .arg(&object));
    object
}

fn run(command: &mut Command) {
    let status = command.status().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?} failed");
}
