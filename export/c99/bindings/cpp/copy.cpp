// What the model makes of a string of letters: copy WEIGHTS TEXT [STATE_IN [STATE_OUT]]. With STATE_IN, it goes on from
// there; STATE_OUT gets where it ends. Compile: c++ -std=c++17 -I.. copy.cpp ../../libNAME.a, with NAME's header below.
#include CRN_HEADER // "copier_api.h"
#include "crn.hpp"

#include <algorithm>
#include <iostream>

namespace {

constexpr int32_t BOS = 0, SEP = 1, EOS = 2, FIRST_LETTER = 3;

int32_t likeliest(const std::vector<float> &logits, std::size_t vocabulary)
{
    const auto row = logits.end() - static_cast<std::ptrdiff_t>(vocabulary);
    return static_cast<int32_t>(std::max_element(row, logits.end()) - row);
}

std::string answer(crn::Session &session, int32_t slot, const std::vector<int32_t> &tokens, int most)
{
    std::string text;
    std::vector<float> logits = session.prefill(slot, tokens);
    for (int count = 0; count < most; count++) {
        const int32_t token = likeliest(logits, session.vocabulary());
        if (token == EOS)
            break;
        if (token >= FIRST_LETTER)
            text += static_cast<char>('a' + token - FIRST_LETTER);
        logits = session.step(slot, token);
    }
    return text;
}

} // namespace

int main(int count, char **words)
{
    if (count < 3) {
        std::cerr << "usage: copy WEIGHTS TEXT [STATE_IN [STATE_OUT]]\n";
        return 2;
    }
    try {
        const crn::Model model(CRN_API(), words[1]);
        crn::Session session(model);
        const int32_t slot = session.admit();
        std::vector<int32_t> tokens;
        if (count > 3)
            session.load(slot, words[3]);
        else
            tokens.push_back(BOS);
        for (const char letter : std::string(words[2]))
            tokens.push_back(letter - 'a' + FIRST_LETTER);
        tokens.push_back(SEP);
        std::cout << answer(session, slot, tokens, static_cast<int>(std::string(words[2]).size())) << '\n';
        if (count > 4)
            session.save(slot, words[4]);
    } catch (const crn::Error &error) {
        std::cerr << "error " << error.code << ": " << error.what() << '\n';
        return 1;
    }
}
