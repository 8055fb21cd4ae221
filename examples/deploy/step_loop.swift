// A prompt in, its continuation out, on iOS: onnxruntime over a bundle whose graphs give whole next states, from
// `export --pool fixed --present`, or of a model with a state of constant size (linear, plain).
//
//     pod 'onnxruntime-objc'       (as a Swift package: import OnnxRuntimeBindings)
//
// The alphabet is `letters`. One StepLoop is one thread's.
import CryptoKit
import Foundation
import onnxruntime_objc

let bos = 0, sep = 1, eos = 2, firstLetter = 3

/// One line that may be shown to people.
struct StepLoopError: Error, CustomStringConvertible {
    let description: String
    init(_ description: String) { self.description = description }
}

/// The part of manifest.json that the loop reads.
struct Manifest: Decodable {
    struct Model: Decodable { let vocabulary: Int }
    struct Graph: Decodable { let file: String }
    struct File: Decodable { let sha256: String }
    struct State: Decodable { let tensors: [Tensor] }
    struct Tensor: Decodable {
        let name, update, dtype, input, output: String
        let capacity: Int?  // nil: no bound
        let shape: [Size]
        var sizes: [Int] { shape.map { $0.value } }
        var count: Int { sizes.reduce(1, *) }
    }
    /// A number, or "B" for the sequences: one here. A pool that grows has "t" and is refused below.
    struct Size: Decodable {
        let value: Int
        let isSymbol: Bool
        init(from decoder: Decoder) throws {
            let container = try decoder.singleValueContainer()
            let number = try? container.decode(Int.self)
            value = number ?? 1
            isSymbol = number == nil
        }
    }
    let alphabet: String?
    let model: Model
    let graphs: [String: Graph]
    let state: State
    let files: [String: File]
    let index_type: String?
    let manifest_sha256: String
}

/// A state at one moment, for a file or another StepLoop.
struct Saved: Codable {
    let model: String
    let position: Int
    let logits: [Float]?
    let tensors: [Data]
}

final class StepLoop {
    private let manifest: Manifest
    private let environment: ORTEnv
    private let session: ORTSession
    private var state: [ORTValue] = []
    /// After the last token, [V]; nil at the start, and where the last token found no room.
    private var logits: [Float]?
    /// Tokens seen so far.
    private(set) var position = 0
    var capacity: Int? { manifest.state.tensors[0].capacity }

    init(folder: URL) throws {
        manifest = try StepLoop.checkedManifest(folder)
        guard let graph = manifest.graphs["step_single"] ?? manifest.graphs["step"] else {
            throw StepLoopError("the bundle has no graph of a step")
        }
        environment = try ORTEnv(loggingLevel: ORTLoggingLevel.warning)
        let path = folder.appendingPathComponent(graph.file).path
        session = try ORTSession(env: environment, modelPath: path, sessionOptions: nil)
        try reset()
    }

    /// A fresh state: zeros.
    func reset() throws {
        let zeros = manifest.state.tensors.map { Data(count: $0.count * MemoryLayout<Float>.size) }
        try restore(Saved(model: manifest.manifest_sha256, position: 0, logits: nil, tensors: zeros))
    }

    /// One token; logits of what comes next. After an error the state is as it was.
    @discardableResult
    func step(_ token: Int) throws -> [Float] {
        guard token >= 0, token < manifest.model.vocabulary else {
            throw StepLoopError("token \(token) is none of this model's")
        }
        try checkRoom(1)
        var inputs = ["tokens": try integer(token, shape: [1, 1]), "position": try integer(position, shape: [])]
        for (tensor, value) in zip(manifest.state.tensors, state) { inputs[tensor.input] = value }
        let names = Set(["logits"] + manifest.state.tensors.map { $0.output })
        let outputs = try session.run(withInputs: inputs, outputNames: names, runOptions: nil)
        guard let made = outputs["logits"] else { throw StepLoopError("the graph gave no logits") }
        let row = floats(try made.tensorData() as Data)
        guard row.allSatisfy({ $0.isFinite }) else { throw StepLoopError("NaN or infinity came out: no answer") }
        let next = manifest.state.tensors.compactMap { outputs[$0.output] }
        guard next.count == state.count else { throw StepLoopError("the graph did not give the whole state") }
        state = next  // present of this step is past of the next one
        position += 1
        logits = row
        return row
    }

    /// A fresh state takes BOS, the prompt and SEP. A prompt that does not fit is an error before anything is taken.
    func begin(_ prompt: String) throws {
        let letters = Array(prompt.utf8)
        guard !letters.isEmpty, letters.allSatisfy({ (97...122).contains($0) }) else {
            throw StepLoopError("prompt '\(prompt)': give letters a to z")
        }
        try reset()
        try checkRoom(letters.count + 2)
        try step(bos)
        for letter in letters { try step(Int(letter) - 97 + firstLetter) }
        try step(sep)
    }

    /// The most likely token, which the state takes; nil where nothing goes on: after EOS, or at the capacity.
    func next() throws -> Int? {
        guard let row = logits else { return nil }
        var token = 0
        for other in 1..<row.count where row[other] > row[token] { token = other }  // ties: the lowest
        if token == eos || position == capacity { logits = nil } else { try step(token) }
        return token
    }

    /// A copy of the state, to go on from after the app was in the background, or in another StepLoop.
    func save() throws -> Saved {
        let tensors = try state.map { Data([UInt8](try $0.tensorData() as Data)) }
        return Saved(model: manifest.manifest_sha256, position: position, logits: logits, tensors: tensors)
    }

    /// Goes on from there, as if nothing had happened.
    func restore(_ saved: Saved) throws {
        guard saved.model == manifest.manifest_sha256 else {
            throw StepLoopError("this state belongs to another bundle")
        }
        state = try zip(manifest.state.tensors, saved.tensors).map { tensor, data in
            try ORTValue(
                tensorData: NSMutableData(data: data), elementType: ORTTensorElementDataType.float,
                shape: tensor.sizes.map { NSNumber(value: $0) })
        }
        position = saved.position
        logits = saved.logits
    }

    private func checkRoom(_ count: Int) throws {
        if let most = capacity, position + count > most {
            throw StepLoopError("\(position + count) positions: the model ends at \(most)")
        }
    }

    private func integer(_ value: Int, shape: [NSNumber]) throws -> ORTValue {
        var number = Int64(value)
        let data = NSMutableData(bytes: &number, length: MemoryLayout<Int64>.size)
        return try ORTValue(tensorData: data, elementType: ORTTensorElementDataType.int64, shape: shape)
    }

    private func floats(_ data: Data) -> [Float] {
        data.withUnsafeBytes { Array($0.bindMemory(to: Float.self)) }  // a copy
    }

    /// The manifest, once every file has the hash that stands there.
    private static func checkedManifest(_ folder: URL) throws -> Manifest {
        let data = try Data(contentsOf: folder.appendingPathComponent("manifest.json"))
        let manifest = try JSONDecoder().decode(Manifest.self, from: data)
        guard manifest.alphabet == "letters" else { throw StepLoopError("this loop knows the alphabet letters alone") }
        guard manifest.index_type ?? "int64" == "int64" else { throw StepLoopError("this loop gives int64 tokens") }
        for tensor in manifest.state.tensors {
            let constant = tensor.shape.filter({ $0.isSymbol }).count == 1
            guard tensor.update == "replace", tensor.dtype == "float32", constant else {
                throw StepLoopError("\(tensor.name): export with a fixed pool and present states, in float32")
            }
        }
        for (name, file) in manifest.files {
            let digest = SHA256.hash(data: try Data(contentsOf: folder.appendingPathComponent(name)))
            let hash = digest.map { String(format: "%02x", $0) }.joined()
            guard hash == file.sha256 else { throw StepLoopError("\(name) is damaged: copy it again") }
        }
        return manifest
    }
}

/// Token ids and their letters; the bundle's folder is a folder reference among the app's resources.
func copy(folder: URL, prompt: String) throws -> (tokens: [Int], text: String) {
    let loop = try StepLoop(folder: folder)
    try loop.begin(prompt)
    var tokens: [Int] = []
    while tokens.count < 256, let token = try loop.next() { tokens.append(token) }  // 256: where there is no capacity
    let letters = tokens.filter { $0 >= firstLetter }.map { Character(UnicodeScalar(UInt8($0 - firstLetter + 97))) }
    return (tokens, String(letters))
}
