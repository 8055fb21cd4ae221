// A prompt in, its continuation out, on Android: onnxruntime-android over a bundle whose graphs give whole next
// states, from `export --pool fixed --present`, or of a model with a state of constant size (linear, plain).
//
//     dependencies { implementation("com.microsoft.onnxruntime:onnxruntime-android:VERSION") }
//
// The alphabet is `letters`. One StepLoop is one thread's; call it off the main thread.
package steploop

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import java.io.File
import java.nio.FloatBuffer
import java.nio.LongBuffer
import java.security.MessageDigest
import org.json.JSONArray
import org.json.JSONObject

private const val BOS = 0
private const val SEP = 1
private const val EOS = 2
private const val FIRST_LETTER = 3

/** One line that may be shown to people. */
class StepLoopException(message: String) : Exception(message)

/** A state at one moment: plain arrays, for a file or `onSaveInstanceState`. */
class Saved(val model: String, val position: Long, val logits: FloatArray?, val tensors: List<FloatArray>)

class StepLoop(folder: File) : AutoCloseable {
    private class Tensor(val input: String, val output: String, val shape: LongArray)

    private val manifest = checkedManifest(folder)
    private val model = manifest.getString("manifest_sha256")
    private val vocabulary = manifest.getJSONObject("model").getInt("vocabulary")
    private val tensors = tensorsOf(manifest.getJSONObject("state").getJSONArray("tensors"))
    private val outputs = setOf("logits") + tensors.map { it.output }

    /** Most positions; null: no bound. */
    val capacity: Long? = manifest.getJSONObject("state").getJSONArray("tensors").getJSONObject(0).let {
        if (it.isNull("capacity")) null else it.getLong("capacity")
    }

    /** Tokens seen so far. */
    var position = 0L
        private set

    /** After the last token, [V]; null at the start, and where the last token found no room. */
    private var logits: FloatArray? = null

    private val environment = OrtEnvironment.getEnvironment()
    private val session: OrtSession = environment.createSession(graphOf(folder).path, OrtSession.SessionOptions())
    private var state: List<OnnxTensor> = stateOf(tensors.map { FloatArray(count(it.shape)) }) // fresh: zeros
    private var result: OrtSession.Result? = null // what `state` belongs to after a step

    /** One token; logits of what comes next. After an error the state is as it was. */
    fun step(token: Int): FloatArray {
        if (token !in 0 until vocabulary) throw StepLoopException("token $token is none of this model's")
        checkRoom(1)
        val next = run(token)
        val made = (next.get("logits").get() as OnnxTensor).floatBuffer
        val row = FloatArray(vocabulary).also { made.get(it) }
        if (row.any { it.isNaN() || it.isInfinite() }) {
            next.close()
            throw StepLoopException("NaN or infinity came out: no answer")
        }
        replaceState(tensors.map { next.get(it.output).get() as OnnxTensor }, next)
        position += 1
        logits = row
        return row
    }

    private fun run(token: Int): OrtSession.Result {
        val tokens = integer(token.toLong(), longArrayOf(1, 1))
        val place = integer(position, longArrayOf())
        try {
            val inputs = mutableMapOf("tokens" to tokens, "position" to place)
            tensors.forEachIndexed { index, tensor -> inputs[tensor.input] = state[index] }
            return session.run(inputs, outputs)
        } finally {
            tokens.close()
            place.close()
        }
    }

    private fun integer(value: Long, shape: LongArray) =
        OnnxTensor.createTensor(environment, LongBuffer.wrap(longArrayOf(value)), shape)

    /** A fresh state takes BOS, the prompt and SEP. One that does not fit is an error before anything is taken. */
    fun begin(prompt: String) {
        val isRight = prompt.isNotEmpty() && prompt.all { it in 'a'..'z' }
        if (!isRight) throw StepLoopException("prompt '$prompt': give letters a to z")
        restore(Saved(model, 0, null, tensors.map { FloatArray(count(it.shape)) }))
        checkRoom(prompt.length + 2)
        step(BOS)
        for (letter in prompt) step(letter - 'a' + FIRST_LETTER)
        step(SEP)
    }

    /** The most likely token, which the state takes; null where nothing goes on: after EOS, or at the capacity. */
    fun next(): Int? {
        val row = logits ?: return null
        var token = 0
        for (other in 1 until vocabulary) if (row[other] > row[token]) token = other // ties: the lowest
        if (token == EOS || position == capacity) logits = null else step(token)
        return token
    }

    /** A copy of the state, to go on from after the app was in the background, or in another StepLoop. */
    fun save() = Saved(model, position, logits?.copyOf(), state.map { tensor ->
        val values = tensor.floatBuffer
        FloatArray(values.remaining()).also { values.get(it) }
    })

    /** Goes on from there, as if nothing had happened. */
    fun restore(saved: Saved) {
        if (saved.model != model) throw StepLoopException("this state belongs to another bundle")
        replaceState(stateOf(saved.tensors), null)
        position = saved.position
        logits = saved.logits?.copyOf()
    }

    override fun close() {
        replaceState(emptyList(), null)
        session.close()
    }

    private fun checkRoom(count: Int) {
        val most = capacity ?: return
        if (position + count > most) throw StepLoopException("${position + count} positions: the model ends at $most")
    }

    /** The tensors of a step are its Result's, which is closed once the next one is there. */
    private fun replaceState(next: List<OnnxTensor>, owner: OrtSession.Result?) {
        if (result == null) state.forEach { it.close() } else result?.close()
        state = next
        result = owner
    }

    private fun stateOf(values: List<FloatArray>) = tensors.mapIndexed { index, tensor ->
        OnnxTensor.createTensor(environment, FloatBuffer.wrap(values[index]), tensor.shape)
    }

    private fun graphOf(folder: File): File {
        val graphs = manifest.getJSONObject("graphs")
        val graph = graphs.optJSONObject("step_single") ?: graphs.getJSONObject("step")
        return File(folder, graph.getString("file"))
    }

    private companion object {
        fun count(shape: LongArray) = shape.fold(1L) { product, size -> product * size }.toInt()

        /** The manifest, once every file has the hash that stands there. */
        fun checkedManifest(folder: File): JSONObject {
            val manifest = JSONObject(File(folder, "manifest.json").readText())
            val alphabet = manifest.optString("alphabet")
            if (alphabet != "letters") throw StepLoopException("alphabet $alphabet: this loop knows letters alone")
            val index = manifest.optString("index_type", "int64")
            if (index != "int64") throw StepLoopException("indices are $index: this loop gives int64")
            val files = manifest.getJSONObject("files")
            for (name in files.keys().asSequence().map { it.toString() }) {
                val digest = MessageDigest.getInstance("SHA-256").digest(File(folder, name).readBytes())
                val hash = digest.joinToString("") { "%02x".format(it) }
                val expected = files.getJSONObject(name).getString("sha256")
                if (hash != expected) throw StepLoopException("$name is damaged: copy it again")
            }
            return manifest
        }

        /** Names and shapes of the state, for one sequence. */
        fun tensorsOf(entries: JSONArray): List<Tensor> = (0 until entries.length()).map { index ->
            val entry = entries.getJSONObject(index)
            if (entry.getString("update") != "replace" || entry.getString("dtype") != "float32") {
                val name = entry.getString("name")
                throw StepLoopException("$name: export with a fixed pool and present states, in float32")
            }
            val shape = entry.getJSONArray("shape")
            val sizes = LongArray(shape.length()) { if (shape.get(it) == "B") 1L else shape.getLong(it) }
            Tensor(entry.getString("input"), entry.getString("output"), sizes)
        }
    }
}

/** Token ids and their letters; the bundle's folder is one that was copied from the assets to `filesDir`. */
fun copy(folder: File, prompt: String): Pair<List<Int>, String> = StepLoop(folder).use { loop ->
    loop.begin(prompt)
    val tokens = generateSequence { loop.next() }.take(256).toList() // 256: where there is no capacity
    val letters = tokens.filter { it >= FIRST_LETTER }.map { 'a' + (it - FIRST_LETTER) }
    Pair(tokens, letters.joinToString(""))
}
