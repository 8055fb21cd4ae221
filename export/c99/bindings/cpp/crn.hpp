// Models that causalrn-export wrote as C, in C++17: owners that free what they hold, and errors as exceptions.
//
//     #include "copier_api.h"
//     #include "crn.hpp"
//
//     crn::Model model(copier_api(), "weights.bin");
//     crn::Session session(model);
//     const int32_t slot = session.admit();
//     std::vector<float> logits = session.prefill(slot, {0, 3, 4, 5, 1}); // [5][vocabulary]
//
// Calls throw crn::Error, with the code and its words; one that throws has changed nothing. Several slots at once are given
// as requests, each with a code of its own, and do not throw for those: see Session::step_many. A model may be used by any
// number of threads, a session by one at a time, and models outlive their sessions.
#ifndef CRN_HPP
#define CRN_HPP

#include "crn_api.h"

#include <initializer_list>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace crn {

/// A call that failed; `code` is one of crn_api.h.
class Error : public std::runtime_error {
public:
    Error(int code, const char *words) : std::runtime_error(words), code(code) {}
    const int code;
};

/// Throws what a code means, unless it is CRN_OK.
inline void check(const crn_api &api, int code)
{
    if (code != CRN_OK)
        throw Error(code, api.message(code));
}

/// Weights, and the kernel that reads them.
class Model {
public:
    /// Of a weights file.
    Model(const crn_api *api, const std::string &path) : Model(opened(api, [&](crn_model **model) {
        return api->open_file(path.c_str(), model);
    })) {}

    /// Of the content of one, which is copied.
    Model(const crn_api *api, const void *file, std::size_t size) : Model(opened(api, [&](crn_model **model) {
        return api->open_memory(file, size, model);
    })) {}

    /// Of the weights that are compiled in.
    explicit Model(const crn_api *api) : Model(opened(api, [&](crn_model **model) { return api->open_inline(model); })) {}

    const crn_api &api() const { return *api_; }
    const crn_model *get() const { return model_.get(); }

    crn_info info() const
    {
        crn_info info = {};
        info.size = sizeof info;
        check(*api_, api_->info(model_.get(), &info));
        return info;
    }

    /// Has sessions that are opened from now on use a kernel; gives which: no more than the machine has.
    int use_kernel(int kernel = CRN_BEST) { return api_->kernel(model_.get(), kernel); }

private:
    struct Opened {
        const crn_api *api;
        crn_model *model;
        int code;
    };
    template <typename Open> static Opened opened(const crn_api *api, Open open)
    {
        Opened result = {api, nullptr, CRN_OK};
        result.code = open(&result.model);
        return result;
    }
    explicit Model(const Opened &opened) : api_(opened.api), model_(opened.model, opened.api->close)
    {
        check(*api_, opened.code);
    }

    const crn_api *api_;
    std::unique_ptr<crn_model, void (*)(crn_model *)> model_;
};

/// Slots: sequences of one model, each at its own position.
class Session {
public:
    /// No slot holds more than `capacity` positions; 0: as many as the model has.
    explicit Session(const Model &model, int32_t capacity = 0)
        : api_(&model.api()), vocabulary_(static_cast<std::size_t>(model.info().vocabulary)),
          session_(nullptr, api_->close_session)
    {
        crn_session *session = nullptr;
        check(*api_, api_->open(model.get(), capacity, &session));
        session_.reset(session);
    }

    std::size_t vocabulary() const { return vocabulary_; }

    int32_t admit()
    {
        int32_t slot = 0;
        check(*api_, api_->admit(session_.get(), &slot));
        return slot;
    }

    /// A new slot with the state of another one.
    int32_t copy(int32_t slot)
    {
        int32_t made = 0;
        check(*api_, api_->copy(session_.get(), slot, &made));
        return made;
    }

    void release(int32_t slot) { check(*api_, api_->release(session_.get(), slot)); }
    void reset(int32_t slot) { check(*api_, api_->reset(session_.get(), slot)); }

    int32_t position(int32_t slot) const
    {
        int32_t position = 0;
        check(*api_, api_->position(session_.get(), slot, &position));
        return position;
    }

    /// [vocabulary] after a slot's last token.
    std::vector<float> logits(int32_t slot) const
    {
        std::vector<float> row(vocabulary_);
        check(*api_, api_->logits(session_.get(), slot, row.data()));
        return row;
    }

    /// Bytes that all slots take.
    std::size_t memory() const { return api_->memory(session_.get()); }

    std::vector<float> step(int32_t slot, int32_t token) { return prefill(slot, &token, 1); }

    /// [time][vocabulary], after each token.
    std::vector<float> prefill(int32_t slot, const int32_t *tokens, int32_t time)
    {
        std::vector<float> logits(vocabulary_ * static_cast<std::size_t>(time > 0 ? time : 0));
        check(*api_, api_->prefill(session_.get(), slot, tokens, time, logits.data()));
        return logits;
    }
    std::vector<float> prefill(int32_t slot, const std::vector<int32_t> &tokens)
    {
        return prefill(slot, tokens.data(), static_cast<int32_t>(tokens.size()));
    }
    std::vector<float> prefill(int32_t slot, std::initializer_list<int32_t> tokens)
    {
        return prefill(slot, tokens.begin(), static_cast<int32_t>(tokens.size()));
    }

    /// Tokens of any number of slots, weights being read once for many. Gives the first code that is not CRN_OK; every
    /// request has its own, and one that fails does not concern the others.
    int step_many(std::vector<crn_request> &requests)
    {
        return api_->step_many(session_.get(), requests.data(), static_cast<int32_t>(requests.size()));
    }

    void save(int32_t slot, const std::string &path) const { check(*api_, api_->save(session_.get(), slot, path.c_str())); }
    void load(int32_t slot, const std::string &path) { check(*api_, api_->load(session_.get(), slot, path.c_str())); }

    /// What `save` writes, and `load` reads.
    std::vector<unsigned char> save(int32_t slot) const
    {
        std::size_t size = 0;
        check(*api_, api_->save_memory(session_.get(), slot, nullptr, &size));
        std::vector<unsigned char> file(size);
        check(*api_, api_->save_memory(session_.get(), slot, file.data(), &size));
        return file;
    }
    void load(int32_t slot, const std::vector<unsigned char> &file)
    {
        check(*api_, api_->load_memory(session_.get(), slot, file.data(), file.size()));
    }

private:
    const crn_api *api_;
    std::size_t vocabulary_;
    std::unique_ptr<crn_session, void (*)(crn_session *)> session_;
};

} // namespace crn

#endif
