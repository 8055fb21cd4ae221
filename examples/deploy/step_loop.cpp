// A prompt in, its continuation out, on a Linux board: a C bundle in C++17. step_loop FOLDER PROMPT [PAUSE]
//
//     gcc -std=c99 -O3 -c BUNDLE/causalrn.c
//     g++ -std=c++17 -O2 -I BUNDLE step_loop.cpp causalrn.o -o step_loop
//
// Weights may be shared by any number of conversations, also across threads; a conversation is one thread's.
#include "causalrn.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

enum : int32_t { BOS = 0, SEP = 1, EOS = 2, FIRST_LETTER = 3 };

void check(int code)
{
    if (code != CAUSALRN_OK)
        throw std::runtime_error(causalrn_message(code));
}

std::vector<int32_t> encode(const std::string &prompt)
{
    if (prompt.empty())
        throw std::invalid_argument("the prompt is empty");
    std::vector<int32_t> tokens{BOS};
    for (const char letter : prompt) {
        if (letter < 'a' || letter > 'z')
            throw std::invalid_argument("prompt '" + prompt + "': give letters a to z");
        tokens.push_back(letter - 'a' + FIRST_LETTER);
    }
    tokens.push_back(SEP);
    return tokens;
}

class Weights {
public:
    explicit Weights(const std::string &folder) : file_((CAUSALRN_FILE_BYTES + 7) / 8 + 1)
    {
        const std::string path = folder + "/weights.bin";
        std::ifstream stream(path, std::ios::binary);
        if (!stream)
            throw std::runtime_error(path + " cannot be opened");
        stream.read(reinterpret_cast<char *>(file_.data()), static_cast<std::streamsize>(file_.size() * 8));
        const auto size = static_cast<size_t>(stream.gcount());
        check(causalrn_load(&weights_, file_.data(), size)); // model, size and checksums
    }
    Weights(const Weights &) = delete; // conversations point at it
    Weights &operator=(const Weights &) = delete;
    const causalrn_weights *get() const { return &weights_; }

private:
    std::vector<uint64_t> file_; // weights are used where they lie
    causalrn_weights weights_{};
};

// A state that can be written to a file, or handed to another conversation of the same model and capacity.
struct Saved {
    std::vector<unsigned char> state;
    std::vector<float> logits;
    int32_t position = 0;
};

class Conversation {
public:
    // `capacity`: most positions, and what memory is for; 0: all that the model has, 1,024 where it has no bound.
    explicit Conversation(const Weights &weights, int32_t capacity = 0)
        : capacity_(capacity > 0 ? capacity : CAUSALRN_CAPACITY > 0 ? CAUSALRN_CAPACITY : 1024),
          memory_((causalrn_session_size(1, capacity_) + 7) / 8), logits_(CAUSALRN_VOCABULARY)
    {
        check(causalrn_open(&session_, weights.get(), memory_.data(), memory_.size() * 8, 1, capacity_));
    }
    Conversation(const Conversation &) = delete; // the session points into memory_
    Conversation &operator=(const Conversation &) = delete;

    // All tokens or none: a prompt that does not fit is CAUSALRN_FULL before anything is taken.
    void take(const std::vector<int32_t> &tokens)
    {
        const auto time = static_cast<int32_t>(tokens.size());
        std::vector<float> rows(tokens.size() * CAUSALRN_VOCABULARY); // [T, V]
        run(causalrn_prefill(&session_, tokens.data(), time, rows.data()));
        std::copy(rows.end() - CAUSALRN_VOCABULARY, rows.end(), logits_.begin());
    }

    // The most likely token, which the state takes; true: it is EOS, or no position is left.
    bool next(int32_t &token)
    {
        token = static_cast<int32_t>(std::max_element(logits_.begin(), logits_.end()) - logits_.begin()); // the first
        if (token == EOS || session_.position == capacity_)
            return true;
        run(causalrn_step(&session_, &token, logits_.data()));
        return false;
    }

    Saved save() const
    {
        const auto *bytes = reinterpret_cast<const unsigned char *>(memory_.data());
        return {{bytes, bytes + CAUSALRN_STATE_BYTES(1, capacity_)}, logits_, session_.position};
    }

    void restore(const Saved &saved)
    {
        if (saved.state.size() != CAUSALRN_STATE_BYTES(1, capacity_) || saved.logits.size() != logits_.size())
            throw std::runtime_error("this state belongs to another model or capacity");
        std::memcpy(memory_.data(), saved.state.data(), saved.state.size());
        logits_ = saved.logits;
        session_.position = saved.position;
    }

private:
    void run(int code)
    {
        if (code == CAUSALRN_NOT_FINITE)
            causalrn_reset(&session_); // a sum may be void; after other errors the state is as it was
        check(code);
    }

    int32_t capacity_;
    std::vector<uint64_t> memory_; // the state, then working memory
    std::vector<float> logits_;    // after the last token
    causalrn_session session_{};
};

void copy(const std::string &folder, const std::string &prompt, size_t pause)
{
    const Weights weights(folder);
    Conversation first(weights), second(weights);
    first.take(encode(prompt));
    Conversation *speaker = &first;
    std::vector<int32_t> tokens;
    int32_t token = 0;
    for (bool finished = false; !finished;) {
        if (tokens.size() == pause && speaker == &first) { // the state is handed on
            second.restore(first.save());
            speaker = &second;
        }
        finished = speaker->next(token);
        tokens.push_back(token);
    }
    std::string text;
    for (size_t i = 0; i < tokens.size(); i++) {
        std::cout << (i > 0 ? " " : "") << tokens[i];
        if (tokens[i] >= FIRST_LETTER)
            text += static_cast<char>(tokens[i] - FIRST_LETTER + 'a');
    }
    std::cout << '\n' << text << '\n';
}

} // namespace

int main(int count, char **arguments)
try {
    if (count < 3)
        throw std::invalid_argument("give a folder and a prompt");
    copy(arguments[1], arguments[2], count > 3 ? std::stoul(arguments[3]) : 0);
    return 0;
} catch (const std::exception &error) {
    std::cerr << "step_loop: " << error.what() << '\n';
    return 2;
}
