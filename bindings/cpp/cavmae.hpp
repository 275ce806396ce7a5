/* cavmae.hpp: cavmae.h for C++17 and later, in one header. What calls do is said there; here is how they look:
 *
 *     cavmae::context context = cavmae::context::create();
 *     cavmae::model model = cavmae::model::load(context, "model.safetensors");
 *     std::vector<float> audio(768);
 *     cavmae::embedding out;
 *     out.audio = audio.data();
 *     model.embed_file("clip.mp4", out);
 *
 * Names are C's without the prefix: cavmae_model_save(model, path) is model.save(path), what makes an object is a static
 * function of its class, and what belongs to no object is a function of the namespace. Numbers are C's CAVMAE_*.
 *
 * Handles own their object alone: they move, do not copy, and free once. get() lends C's pointer, release() gives it
 * away, and a handle made of a pointer takes it over. They may go in any order, as in C. A const member function does not
 * change the object, or may be called by any thread.
 *
 * Errors are exceptions of class error, with C's sentence. With CAVMAE_NO_EXCEPTIONS defined before the header, or under
 * -fno-exceptions, nothing is thrown, and what can fail returns result<T> instead of T: true where it went well, *result
 * is then the value; code() and what() otherwise.
 *
 * Records have their struct_size, and are C's records otherwise. Where C takes a pointer and a length, here is a span, and
 * one that is too short is E_SHAPE; pointers in records have the lengths that cavmae.h says.
 *
 * Callbacks are std::functions. They live as long as any object made of their context or world, but for objects given
 * away by release() or to_dlpack(): for these keep a handle. An exception out of a log, progress or memory callback is dropped,
 * one out of a cancel callback cancels, one out of a sink comes out of the call, and one out of a decoder or of collectives
 * becomes the failure of that, with its words. */
#ifndef CAVMAE_HPP
#define CAVMAE_HPP

#include <cavmae.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#if __cplusplus >= 202002L
#include <span>
#endif

#if !defined(CAVMAE_NO_EXCEPTIONS) && !defined(__cpp_exceptions)
#define CAVMAE_NO_EXCEPTIONS
#endif

namespace cavmae {

/* Both ways may meet in one program. */
#ifdef CAVMAE_NO_EXCEPTIONS
inline namespace returning {
#else
inline namespace throwing {
#endif

/* ---- Spans and records ------------------------------------------------------------------------------------ */

#if __cplusplus >= 202002L
template <class T> using span = std::span<T>;
#else
/* As much of std::span as is needed here. */
template <class T> class span {
  public:
    using element_type = T;
    using value_type = std::remove_cv_t<T>;

    constexpr span() noexcept = default;
    constexpr span(T *data, std::size_t size) noexcept : data_(data), size_(size) {}
    template <std::size_t N> constexpr span(T (&array)[N]) noexcept : data_(array), size_(N) {}
    /* A vector, array, string or other span. */
    template <class R, class E = std::remove_pointer_t<decltype(std::data(std::declval<R &>()))>,
              class = std::enable_if_t<std::is_convertible_v<E (*)[], T (*)[]>>>
    constexpr span(R &&range) : data_(std::data(range)), size_(std::size(range)) {}

    constexpr T *data() const noexcept { return data_; }
    constexpr std::size_t size() const noexcept { return size_; }
    constexpr bool empty() const noexcept { return size_ == 0; }
    constexpr T &operator[](std::size_t i) const { return data_[i]; }
    constexpr T *begin() const noexcept { return data_; }
    constexpr T *end() const noexcept { return data_ + size_; }

  private:
    T *data_ = nullptr;
    std::size_t size_ = 0;
};
#endif

/* A string, or none: nullptr where C takes NULL. Lives as long as what it was made of. */
class text {
  public:
    constexpr text(const char *string) noexcept : string_(string) {}
    text(const std::string &string) noexcept : string_(string.c_str()) {}
    constexpr const char *c_str() const noexcept { return string_; }

  private:
    const char *string_;
};

/* One of C's records: zeros, with its size. */
template <class T> struct record : T {
    record() noexcept : T{} { this->struct_size = static_cast<std::uint32_t>(sizeof(T)); }
};

using batch = record<cavmae_batch>;
using class_metrics = record<cavmae_class_metrics>;
using embedding = record<cavmae_embedding>;
using inpainting = record<cavmae_inpainting>;
using key_info = record<cavmae_key_info>;
using load_report = record<cavmae_load_report>;
using loader_item = record<cavmae_loader_item>;
using localization_metrics = record<cavmae_localization_metrics>;
using media_info = record<cavmae_media_info>;
using memory = record<cavmae_memory>;
using pack_report = record<cavmae_pack_report>;
using retrieval_metrics = record<cavmae_retrieval_metrics>;
using source = record<cavmae_source>;
using step_result = record<cavmae_step_result>;
using topk_metrics = record<cavmae_topk_metrics>;
using window_options = record<cavmae_window_options>;
using world_options = record<cavmae_world_options>;

/* ---- Errors ------------------------------------------------------------------------------------------------- */

#ifdef CAVMAE_NO_EXCEPTIONS

template <class T> class result;

template <> class [[nodiscard]] result<void> {
  public:
    /* own: the sentence of a fault that C did not see; static. */
    result(cavmae_status code = CAVMAE_OK, const char *own = nullptr) noexcept : code_(code), own_(own) {}
    explicit operator bool() const noexcept { return code_ == CAVMAE_OK; }
    cavmae_status code() const noexcept { return code_; }
    /* "" without a fault. Valid, as cavmae_last_error, until this thread's next call that fails. */
    const char *what() const noexcept { return code_ == CAVMAE_OK ? "" : own_ ? own_ : cavmae_last_error(); }

  private:
    cavmae_status code_;
    const char *own_;
};

template <class T> class [[nodiscard]] result : public result<void> {
  public:
    result(T value) : value_(std::move(value)) {}
    result(const result<void> &failure) : result<void>(failure), value_() {}
    /* A value without meaning where the call failed. */
    T &operator*() &noexcept { return value_; }
    const T &operator*() const &noexcept { return value_; }
    T &&operator*() &&noexcept { return std::move(value_); }
    T *operator->() noexcept { return &value_; }
    const T *operator->() const noexcept { return &value_; }

  private:
    T value_;
};

namespace detail {
inline result<void> check(cavmae_status code, const char *own = nullptr) noexcept { return {code, own}; }

template <class T> result<T> give(cavmae_status code, T value) {
    if (code != CAVMAE_OK) return result<void>(code);
    return result<T>(std::move(value));
}

template <class T> result<T> refuse(const char *sentence) { return result<void>(CAVMAE_E_SHAPE, sentence); }
} // namespace detail

#else

class error : public std::runtime_error {
  public:
    error(cavmae_status status, const char *sentence) : std::runtime_error(sentence), status_(status) {}
    cavmae_status status() const noexcept { return status_; }

  private:
    cavmae_status status_;
};

template <class T> using result = T;

namespace detail {
inline void check(cavmae_status code, const char *own = nullptr) {
    if (code != CAVMAE_OK) throw error(code, own ? own : cavmae_last_error());
}

template <class T> T give(cavmae_status code, T value) {
    check(code);
    return value;
}

template <class T> [[noreturn]] T refuse(const char *sentence) { throw error(CAVMAE_E_SHAPE, sentence); }
} // namespace detail

#endif

inline const char *status_str(cavmae_status status) noexcept { return cavmae_status_str(status); }
inline const char *last_error() noexcept { return cavmae_last_error(); }

/* ---- Version ------------------------------------------------------------------------------------------------ */

inline std::uint32_t version() noexcept { return cavmae_version(); }
inline const char *version_string() noexcept { return cavmae_version_string(); }
inline const char *build_info() noexcept { return cavmae_build_info(); }

/* ---- What handles are made of ------------------------------------------------------------------------------ */

namespace detail {

/* What an object's context, worlds and decoders call: it goes when the last object does. */
using calls = std::shared_ptr<const void>;

inline calls both(const calls &a, const calls &b) {
    if (!b || a == b) return a;
    if (!a) return b;
    return std::make_shared<const std::pair<calls, calls>>(a, b);
}

template <class C, void (*Free)(C *)> class handle {
  public:
    handle() noexcept = default;
    /* Takes the object over; its context's callbacks are the caller's to keep, or `kept`. */
    explicit handle(C *taken, detail::calls kept = nullptr) noexcept : object_(taken), calls_(std::move(kept)) {}
    handle(handle &&other) noexcept : object_(std::exchange(other.object_, nullptr)), calls_(std::move(other.calls_)) {}
    handle &operator=(handle &&other) noexcept {
        handle old(std::move(other));
        std::swap(object_, old.object_);
        std::swap(calls_, old.calls_);
        return *this;
    }
    handle(const handle &) = delete;
    handle &operator=(const handle &) = delete;
    ~handle() { Free(object_); }

    C *get() const noexcept { return object_; }
    C *release() noexcept {
        calls_.reset();
        return std::exchange(object_, nullptr);
    }
    explicit operator bool() const noexcept { return object_ != nullptr; }
    const detail::calls &calls() const noexcept { return calls_; }

  protected:
    void keep(const detail::calls &more) { calls_ = both(calls_, more); }

  private:
    C *object_ = nullptr;
    detail::calls calls_;
};

/* C must not see an exception. */
template <class R, class F> R guarded(R otherwise, F &&function) noexcept {
#ifdef __cpp_exceptions
    try {
        return function();
    } catch (...) {
        return otherwise;
    }
#else
    static_cast<void>(otherwise);
    return function();
#endif
}

inline void put(char *error, std::size_t size, const char *sentence) noexcept {
    if (error && size) std::snprintf(error, size, "%s", sentence);
}

/* function(std::string &sentence) to a status, with its sentence in error [size]. */
template <class F> cavmae_status worded(cavmae_status otherwise, char *error, std::size_t size, F &&function) noexcept {
#ifdef __cpp_exceptions
    try {
#endif
        std::string sentence;
        const cavmae_status status = function(sentence);
        if (status != CAVMAE_OK) put(error, size, sentence.c_str());
        return status;
#ifdef __cpp_exceptions
    } catch (const std::exception &exception) {
        put(error, size, exception.what());
    } catch (...) {
        put(error, size, "an exception");
    }
    return otherwise;
#else
    static_cast<void>(otherwise);
#endif
}

/* Elements of an array; what C will refuse has none. */
inline std::size_t elements(std::initializer_list<std::int64_t> sizes) noexcept {
    std::size_t product = 1;
    for (const std::int64_t size : sizes) {
        if (size <= 0) return 0;
        if (product > SIZE_MAX / static_cast<std::size_t>(size)) return SIZE_MAX;
        product *= static_cast<std::size_t>(size);
    }
    return product;
}

inline std::int64_t rows(std::size_t size, std::int64_t width) noexcept {
    return width > 0 ? static_cast<std::int64_t>(size) / width : 0;
}

template <class T> bool lacks(span<T> have, std::initializer_list<std::int64_t> need) noexcept {
    return have.size() < elements(need);
}

/* What may be empty is, or is long enough. */
template <class T> bool falls_short(span<T> have, std::initializer_list<std::int64_t> need) noexcept {
    return have.size() != 0 && lacks(have, need);
}

/* An array of C's strings. */
inline std::vector<const char *> strings(span<const std::string> from) {
    std::vector<const char *> all;
    for (const std::string &one : from) all.push_back(one.c_str());
    return all;
}

} // namespace detail

/* ---- Context -------------------------------------------------------------------------------------------------- */

/* C's fields, and functions that take the place of its callbacks where they are set. They are called from any thread. */
struct context_options : record<cavmae_context_options> {
    std::function<void *(std::size_t size)> on_alloc;
    std::function<void(void *memory)> on_free;
    std::function<void(std::int32_t level, const char *message)> on_log;
    std::function<bool()> on_cancel; /* true ends the call */
    std::function<void(const char *what, std::int64_t done, std::int64_t total)> on_progress;
};

/* What a decoder gives its pictures and sound to: non-zero ends the decoding, and is to be returned by it. */
struct audio_sink {
    cavmae_audio_sink *sink;
    void *argument;
    cavmae_status operator()(span<const float> pcm /* [samples, channels] */, std::int32_t channels,
                             std::int32_t rate) const {
        return sink(argument, pcm.data(), detail::rows(pcm.size(), channels), channels, rate);
    }
};
struct frame_sink {
    cavmae_frame_sink *sink;
    void *argument;
    cavmae_status operator()(std::int32_t index, const std::uint8_t *rgb, std::int32_t width, std::int32_t height,
                             std::int64_t stride) const {
        return sink(argument, index, rgb, width, height, stride);
    }
};

/* A decoder of the caller's: each function gives a status and, with a failure, a sentence. */
struct decoder {
    std::function<cavmae_status(const cavmae_source &, cavmae_media_info &, std::string &sentence)> probe;
    std::function<cavmae_status(const cavmae_source &, const audio_sink &, std::string &sentence)> audio;
    std::function<cavmae_status(const cavmae_source &, span<const double> seconds, const frame_sink &,
                                std::string &sentence)>
        frames;
};

namespace detail {

struct context_calls {
    context_options options;
    std::vector<std::shared_ptr<const decoder>> decoders;

    static const context_calls &of(void *user) { return *static_cast<const context_calls *>(user); }
    static void *alloc(void *user, std::size_t size) {
        return guarded<void *>(nullptr, [&] { return of(user).options.on_alloc(size); });
    }
    static void free(void *user, void *data) {
        guarded(0, [&] { return of(user).options.on_free(data), 0; });
    }
    static void log(void *user, std::int32_t level, const char *message) {
        guarded(0, [&] { return of(user).options.on_log(level, message), 0; });
    }
    static std::int32_t cancel(void *user) {
        return guarded(1, [&] { return of(user).options.on_cancel() ? 1 : 0; });
    }
    static void progress(void *user, const char *what, std::int64_t done, std::int64_t total) {
        guarded(0, [&] { return of(user).options.on_progress(what, done, total), 0; });
    }

    static cavmae_status probe(void *user, const cavmae_source *from, cavmae_media_info *info, char *error,
                               std::size_t error_size) {
        return worded(CAVMAE_E_MEDIA, error, error_size, [&](std::string &sentence) {
            return static_cast<const decoder *>(user)->probe(*from, *info, sentence);
        });
    }
    static cavmae_status audio(void *user, const cavmae_source *from, cavmae_audio_sink *sink, void *argument,
                               char *error, std::size_t error_size) {
        return worded(CAVMAE_E_MEDIA, error, error_size, [&](std::string &sentence) {
            return static_cast<const decoder *>(user)->audio(*from, audio_sink{sink, argument}, sentence);
        });
    }
    static cavmae_status frames(void *user, const cavmae_source *from, const double *seconds, std::int32_t count,
                                cavmae_frame_sink *sink, void *argument, char *error, std::size_t error_size) {
        return worded(CAVMAE_E_MEDIA, error, error_size, [&](std::string &sentence) {
            return static_cast<const decoder *>(user)->frames(*from, {seconds, static_cast<std::size_t>(count)},
                                                              frame_sink{sink, argument}, sentence);
        });
    }
};

} // namespace detail

class context : public detail::handle<cavmae_context, cavmae_context_free> {
  public:
    using handle::handle;

    static result<context> create(const context_options &options = {}) {
        const auto calls = std::make_shared<detail::context_calls>();
        calls->options = options;
        cavmae_context_options c = options;
        if (options.on_alloc) c.alloc = detail::context_calls::alloc;
        if (options.on_free) c.free = detail::context_calls::free;
        if (options.on_alloc || options.on_free) c.alloc_user = calls.get();
        if (options.on_log) c.log = detail::context_calls::log, c.log_user = calls.get();
        if (options.on_cancel) c.cancel = detail::context_calls::cancel, c.cancel_user = calls.get();
        if (options.on_progress) c.progress = detail::context_calls::progress, c.progress_user = calls.get();
        cavmae_context *out = nullptr;
        const cavmae_status code = cavmae_context_create(&c, &out);
        context made(out, calls);
        made.own_ = calls;
        return detail::give(code, std::move(made));
    }

    const char *device() const noexcept { return cavmae_context_device(get()); }
    result<const char *> device_info() {
        const char *out = nullptr;
        const cavmae_status code = cavmae_context_device_info(get(), &out);
        return detail::give(code, out);
    }
    std::int32_t threads() const noexcept { return cavmae_context_threads(get()); }

    result<void> set_decoder(decoder functions) {
        const auto media = std::make_shared<decoder>(std::move(functions));
        record<cavmae_decoder> c;
        c.version = 1;
        c.user = media.get();
        if (media->probe) c.probe = detail::context_calls::probe;
        if (media->audio) c.audio = detail::context_calls::audio;
        if (media->frames) c.frames = detail::context_calls::frames;
        if (own_)
            own_->decoders.push_back(media);
        else
            keep(media);
        return detail::check(cavmae_context_set_decoder(get(), &c));
    }
    /* decoder.user must outlive the context. */
    result<void> set_decoder(const cavmae_decoder &functions) {
        return detail::check(cavmae_context_set_decoder(get(), &functions));
    }

  private:
    std::shared_ptr<detail::context_calls> own_;
};

/* ---- Worlds --------------------------------------------------------------------------------------------------- */

/* The caller's functions, as in cavmae_collectives; each gives a status and, with a failure, a sentence. */
struct collectives {
    std::string name;
    std::function<cavmae_status(std::int32_t dtype, void *data, std::int64_t count, std::string &sentence)> all_reduce;
    std::function<cavmae_status(std::int32_t dtype, const void *send, void *receive, std::int64_t count,
                                std::string &sentence)>
        reduce_scatter;
    std::function<cavmae_status(const void *send, void *receive, std::int64_t bytes, std::string &sentence)> all_gather;
    std::function<cavmae_status(void *data, std::int64_t bytes, std::int32_t root, std::string &sentence)> broadcast;
    std::function<cavmae_status(std::string &sentence)> barrier;
    std::function<void()> abort; /* may be empty, as close */
    std::function<void()> close;
};

namespace detail {

struct carrier_calls {
    static const collectives &of(void *user) { return *static_cast<const collectives *>(user); }
    static cavmae_status all_reduce(void *user, std::int32_t dtype, void *data, std::int64_t count, char *error,
                                    std::size_t size) {
        return worded(CAVMAE_E_PEER, error, size,
                      [&](std::string &sentence) { return of(user).all_reduce(dtype, data, count, sentence); });
    }
    static cavmae_status reduce_scatter(void *user, std::int32_t dtype, const void *send, void *receive,
                                        std::int64_t count, char *error, std::size_t size) {
        return worded(CAVMAE_E_PEER, error, size, [&](std::string &sentence) {
            return of(user).reduce_scatter(dtype, send, receive, count, sentence);
        });
    }
    static cavmae_status all_gather(void *user, const void *send, void *receive, std::int64_t bytes, char *error,
                                    std::size_t size) {
        return worded(CAVMAE_E_PEER, error, size,
                      [&](std::string &sentence) { return of(user).all_gather(send, receive, bytes, sentence); });
    }
    static cavmae_status broadcast(void *user, void *data, std::int64_t bytes, std::int32_t root, char *error,
                                   std::size_t size) {
        return worded(CAVMAE_E_PEER, error, size,
                      [&](std::string &sentence) { return of(user).broadcast(data, bytes, root, sentence); });
    }
    static cavmae_status barrier(void *user, char *error, std::size_t size) {
        return worded(CAVMAE_E_PEER, error, size, [&](std::string &sentence) { return of(user).barrier(sentence); });
    }
    static void abort(void *user) {
        guarded(0, [&] { return of(user).abort(), 0; });
    }
    static void close(void *user) {
        guarded(0, [&] { return of(user).close(), 0; });
    }
};

} // namespace detail

using nccl_id_bytes = std::array<std::uint8_t, CAVMAE_NCCL_ID_SIZE>;

inline result<nccl_id_bytes> nccl_id(context &of) {
    nccl_id_bytes id{};
    const cavmae_status code = cavmae_nccl_id(of.get(), id.data());
    return detail::give(code, id);
}

class world : public detail::handle<cavmae_world, cavmae_world_free> {
  public:
    using handle::handle;

    static result<world> create(context &of, const cavmae_world_options &options, collectives functions) {
        const auto carrier = std::make_shared<collectives>(std::move(functions));
        record<cavmae_collectives> c;
        c.version = 1;
        c.name = carrier->name.c_str();
        c.user = carrier.get();
        if (carrier->all_reduce) c.all_reduce = detail::carrier_calls::all_reduce;
        if (carrier->reduce_scatter) c.reduce_scatter = detail::carrier_calls::reduce_scatter;
        if (carrier->all_gather) c.all_gather = detail::carrier_calls::all_gather;
        if (carrier->broadcast) c.broadcast = detail::carrier_calls::broadcast;
        if (carrier->barrier) c.barrier = detail::carrier_calls::barrier;
        if (carrier->abort) c.abort = detail::carrier_calls::abort;
        if (carrier->close) c.close = detail::carrier_calls::close;
        cavmae_world *out = nullptr;
        const cavmae_status code = cavmae_world_create(of.get(), &options, &c, &out);
        return detail::give(code, world(out, detail::both(of.calls(), carrier)));
    }
    /* One for each context. */
    static result<std::vector<world>> create_threads(span<const context> contexts,
                                                     const cavmae_world_options &options = world_options()) {
        std::vector<cavmae_context *> of;
        std::vector<cavmae_world *> out(contexts.size());
        detail::calls calls;
        for (const context &one : contexts) {
            of.push_back(one.get());
            calls = detail::both(calls, one.calls());
        }
        const cavmae_status code =
            cavmae_world_create_threads(of.data(), static_cast<std::int32_t>(of.size()), &options, out.data());
        std::vector<world> worlds;
        for (cavmae_world *one : out) worlds.emplace_back(one, calls);
        return detail::give(code, std::move(worlds));
    }
    /* comm: a pointer to an MPI_Comm, or nullptr. */
    static result<world> create_mpi(context &of, const cavmae_world_options &options = world_options(),
                                    const void *comm = nullptr) {
        cavmae_world *out = nullptr;
        const cavmae_status code = cavmae_world_create_mpi(of.get(), &options, comm, &out);
        return detail::give(code, world(out, of.calls()));
    }
    static result<world> create_nccl(context &of, const cavmae_world_options &options, const nccl_id_bytes &id) {
        cavmae_world *out = nullptr;
        const cavmae_status code = cavmae_world_create_nccl(of.get(), &options, id.data(), &out);
        return detail::give(code, world(out, of.calls()));
    }

    std::int32_t rank() const noexcept { return cavmae_world_rank(get()); }
    std::int32_t size() const noexcept { return cavmae_world_size(get()); }
    const char *carrier() const noexcept { return cavmae_world_carrier(get()); }

    result<void> barrier() { return detail::check(cavmae_world_barrier(get())); }
    result<void> sum(span<double> values) {
        return detail::check(cavmae_world_sum(get(), values.data(), static_cast<std::int64_t>(values.size())));
    }
    /* receive [size, bytes] */
    result<void> gather(const void *send, void *receive, std::size_t bytes) {
        return detail::check(cavmae_world_gather(get(), send, receive, bytes));
    }
    result<void> broadcast(void *data, std::size_t bytes, std::int32_t root) {
        return detail::check(cavmae_world_broadcast(get(), data, bytes, root));
    }
    void fail(text sentence) noexcept { cavmae_world_fail(get(), sentence.c_str()); }
};

/* ---- Configuration ------------------------------------------------------------------------------------------- */

class config : public detail::handle<cavmae_config, cavmae_config_free> {
  public:
    using handle::handle;

    static result<config> create(const context &of, text preset = nullptr) {
        cavmae_config *out = nullptr;
        const cavmae_status code = cavmae_config_create(of.get(), preset.c_str(), &out);
        return detail::give(code, config(out, of.calls()));
    }
    result<void> apply(text recipe) { return detail::check(cavmae_config_apply(get(), recipe.c_str())); }
    result<config> clone() const {
        cavmae_config *out = nullptr;
        const cavmae_status code = cavmae_config_clone(get(), &out);
        return detail::give(code, config(out, calls()));
    }

    /* key: CAVMAE_P_* */
    result<void> set_i64(std::int32_t key, std::int64_t value) {
        return detail::check(cavmae_config_set_i64(get(), key, value));
    }
    result<void> set_f64(std::int32_t key, double value) {
        return detail::check(cavmae_config_set_f64(get(), key, value));
    }
    result<void> set_str(std::int32_t key, text value) {
        return detail::check(cavmae_config_set_str(get(), key, value.c_str()));
    }
    result<void> set(text name, text value) {
        return detail::check(cavmae_config_set(get(), name.c_str(), value.c_str()));
    }
    result<std::int64_t> get_i64(std::int32_t key) const {
        std::int64_t out = 0;
        const cavmae_status code = cavmae_config_get_i64(get(), key, &out);
        return detail::give(code, out);
    }
    result<double> get_f64(std::int32_t key) const {
        double out = 0;
        const cavmae_status code = cavmae_config_get_f64(get(), key, &out);
        return detail::give(code, out);
    }
    result<const char *> get_str(std::int32_t key) const {
        const char *out = nullptr;
        const cavmae_status code = cavmae_config_get_str(get(), key, &out);
        return detail::give(code, out);
    }
    static result<cavmae::key_info> key_info(std::int32_t index) {
        cavmae::key_info out;
        const cavmae_status code = cavmae_config_key_info(index, &out);
        return detail::give(code, out);
    }
    result<void> check() const { return detail::check(cavmae_config_check(get())); }

    result<void> set_world(const world &in) {
        keep(in.calls());
        return detail::check(cavmae_config_set_world(get(), in.get()));
    }
};

/* What a task on `batch` clips will take. */
inline result<memory> memory_required(const config &of, std::int32_t task, std::int32_t clips) {
    memory out;
    const cavmae_status code = cavmae_memory_required(of.get(), task, clips, &out);
    return detail::give(code, out);
}

/* ---- Tensors ---------------------------------------------------------------------------------------------------- */

namespace detail {

/* May elements of this dtype be read as T? float16 and bfloat16 have no type, and are read as their bits. */
template <class T> constexpr bool reads(std::int32_t dtype) noexcept {
    using type = std::remove_cv_t<T>;
    switch (dtype) {
    case CAVMAE_FLOAT32: return std::is_same_v<type, float>;
    case CAVMAE_FLOAT64: return std::is_same_v<type, double>;
    case CAVMAE_FLOAT16:
    case CAVMAE_BFLOAT16: return std::is_same_v<type, std::uint16_t>;
    case CAVMAE_INT64: return std::is_same_v<type, std::int64_t>;
    case CAVMAE_INT32: return std::is_same_v<type, std::int32_t>;
    case CAVMAE_INT16: return std::is_same_v<type, std::int16_t>;
    case CAVMAE_INT8: return std::is_same_v<type, std::int8_t>;
    case CAVMAE_UINT8:
    case CAVMAE_BOOL: return std::is_same_v<type, std::uint8_t>;
    default: return false;
    }
}

} // namespace detail

class tensor : public detail::handle<cavmae_tensor, cavmae_tensor_free> {
  public:
    using handle::handle;

    static result<tensor> create(const context &of, std::int32_t dtype, span<const std::int64_t> shape) {
        cavmae_tensor *out = nullptr;
        const cavmae_status code =
            cavmae_tensor_create(of.get(), dtype, static_cast<std::int32_t>(shape.size()), shape.data(), &out);
        return detail::give(code, tensor(out, of.calls()));
    }
    /* The caller's memory; release is called when the last view is freed, and not where this fails. */
    static result<tensor> wrap(const context &of, void *data, std::int32_t dtype, span<const std::int64_t> shape,
                               std::function<void()> released = nullptr) {
        cavmae_tensor *out = nullptr;
        auto user = std::make_unique<std::function<void()>>(std::move(released));
        const cavmae_status code = cavmae_tensor_wrap(of.get(), data, dtype, static_cast<std::int32_t>(shape.size()),
                                                      shape.data(), call_released, user.get(), &out);
        if (code == CAVMAE_OK) static_cast<void>(user.release()); /* call_released's now */
        return detail::give(code, tensor(out, of.calls()));
    }
    static result<tensor> from_dlpack(const context &of, DLManagedTensor *managed) {
        cavmae_tensor *out = nullptr;
        const cavmae_status code = cavmae_tensor_from_dlpack(of.get(), managed, &out);
        return detail::give(code, tensor(out, of.calls()));
    }
    /* The receiver calls its deleter; callbacks of the context must live until then. */
    result<DLManagedTensor *> to_dlpack() {
        DLManagedTensor *out = nullptr;
        const cavmae_status code = cavmae_tensor_to_dlpack(get(), &out);
        return detail::give(code, out);
    }

    void *data() const noexcept { return cavmae_tensor_data(get()); }
    std::int32_t dtype() const noexcept { return cavmae_tensor_dtype(get()); }
    std::int32_t dims() const noexcept { return cavmae_tensor_dims(get()); }
    std::int64_t elements() const noexcept { return cavmae_tensor_elements(get()); }
    span<const std::int64_t> shape() const noexcept {
        return {cavmae_tensor_shape(get()), static_cast<std::size_t>(dims())};
    }
    /* All elements, as a tensor of T has them. */
    template <class T> result<span<T>> values() const {
        if (!detail::reads<T>(dtype())) return detail::refuse<span<T>>("the tensor's dtype is another type's");
        return span<T>(static_cast<T *>(data()), static_cast<std::size_t>(elements()));
    }

    result<void> save_npy(text path) const { return detail::check(cavmae_tensor_save_npy(get(), path.c_str())); }

  private:
    static void call_released(void *user) {
        const std::unique_ptr<std::function<void()>> function(static_cast<std::function<void()> *>(user));
        if (*function) detail::guarded(0, [&] { return (*function)(), 0; });
    }
};

using named_tensor = std::pair<std::string, const tensor *>;
using named_text = std::pair<std::string, std::string>;

namespace detail {

struct tensor_list {
    explicit tensor_list(span<const named_tensor> from) {
        for (const named_tensor &one : from) {
            names.push_back(one.first.c_str());
            tensors.push_back(one.second ? one.second->get() : nullptr);
        }
    }
    std::int64_t count() const noexcept { return static_cast<std::int64_t>(names.size()); }
    std::vector<const char *> names;
    std::vector<const cavmae_tensor *> tensors;
};

} // namespace detail

class safetensors : public detail::handle<cavmae_safetensors, cavmae_safetensors_free> {
  public:
    using handle::handle;

    static result<safetensors> open(const context &of, text path) {
        cavmae_safetensors *out = nullptr;
        const cavmae_status code = cavmae_safetensors_open(of.get(), path.c_str(), &out);
        return detail::give(code, safetensors(out, of.calls()));
    }
    std::int64_t count() const noexcept { return cavmae_safetensors_count(get()); }
    const char *name(std::int64_t index) const noexcept { return cavmae_safetensors_name(get(), index); }
    result<tensor> get_tensor(text name) {
        cavmae_tensor *out = nullptr;
        const cavmae_status code = cavmae_safetensors_get(get(), name.c_str(), &out);
        return detail::give(code, tensor(out, calls()));
    }
    const char *metadata(text key) const noexcept { return cavmae_safetensors_metadata(get(), key.c_str()); }

    static result<void> save(const context &of, text path, span<const named_tensor> tensors,
                             span<const named_text> metadata = {}) {
        const detail::tensor_list list(tensors);
        std::vector<const char *> keys, texts;
        for (const named_text &one : metadata) {
            keys.push_back(one.first.c_str());
            texts.push_back(one.second.c_str());
        }
        return detail::check(cavmae_safetensors_save(of.get(), path.c_str(), list.count(), list.names.data(),
                                                     list.tensors.data(), static_cast<std::int64_t>(keys.size()),
                                                     keys.data(), texts.data()));
    }
};

/* A PyTorch file. */
class torch : public detail::handle<cavmae_torch, cavmae_torch_free> {
  public:
    using handle::handle;

    static result<torch> open(const context &of, text path) {
        cavmae_torch *out = nullptr;
        const cavmae_status code = cavmae_torch_open(of.get(), path.c_str(), &out);
        return detail::give(code, torch(out, of.calls()));
    }
    std::int64_t count() const noexcept { return cavmae_torch_count(get()); }
    const char *name(std::int64_t index) const noexcept { return cavmae_torch_name(get(), index); }
    result<tensor> get_tensor(text name) {
        cavmae_tensor *out = nullptr;
        const cavmae_status code = cavmae_torch_get(get(), name.c_str(), &out);
        return detail::give(code, tensor(out, calls()));
    }
    static result<void> save(const context &of, text path, span<const named_tensor> tensors, text prefix = nullptr) {
        const detail::tensor_list list(tensors);
        return detail::check(cavmae_torch_save(of.get(), path.c_str(), list.count(), list.names.data(),
                                               list.tensors.data(), prefix.c_str()));
    }
};

/* ---- Front-end --------------------------------------------------------------------------------------------------- */

inline std::int64_t fbank_frames(std::int64_t samples, std::int32_t rate) noexcept {
    return cavmae_fbank_frames(samples, rate);
}

/* out [fbank_frames, mel_bins] */
inline result<void> fbank(const context &of, span<const float> pcm, std::int32_t rate, std::int32_t mel_bins,
                          span<float> out) {
    const auto samples = static_cast<std::int64_t>(pcm.size());
    if (detail::lacks(out, {fbank_frames(samples, rate), mel_bins}))
        return detail::refuse<void>("fbank: out is shorter than frames * mel_bins");
    return detail::check(cavmae_fbank(of.get(), pcm.data(), samples, rate, mel_bins, out.data()));
}

/* pcm [samples, channels] */
inline result<tensor> prepare_audio(const config &contract, span<const float> pcm, std::int32_t channels,
                                    std::int32_t rate) {
    cavmae_tensor *out = nullptr;
    const cavmae_status code =
        cavmae_prepare_audio(contract.get(), pcm.data(), detail::rows(pcm.size(), channels), channels, rate, &out);
    return detail::give(code, tensor(out, contract.calls()));
}

inline result<tensor> resample(const config &contract, span<const float> pcm, std::int32_t channels,
                               std::int32_t rate) {
    cavmae_tensor *out = nullptr;
    const cavmae_status code =
        cavmae_resample(contract.get(), pcm.data(), detail::rows(pcm.size(), channels), channels, rate, &out);
    return detail::give(code, tensor(out, contract.calls()));
}

namespace detail {

/* Do pixels [height, width, C] and out [C, image_size, image_size] hold what they must? */
template <class T>
bool picture_fits(const config &contract, span<const std::uint8_t> pixels, std::int32_t width, std::int32_t height,
                  std::int64_t stride, span<T> out) {
    std::int64_t channels = 0, size = 0;
    if (cavmae_config_get_i64(contract.get(), CAVMAE_P_IMAGE_CHANNELS, &channels) != CAVMAE_OK ||
        cavmae_config_get_i64(contract.get(), CAVMAE_P_IMAGE_SIZE, &size) != CAVMAE_OK)
        return true; /* C says what is wrong */
    const std::size_t row = elements({width, channels}), apart = stride > 0 ? elements({stride}) : row;
    const std::size_t before = height > 1 ? elements({height - 1, static_cast<std::int64_t>(apart)}) : 0;
    return pixels.size() >= row && pixels.size() - row >= before && !lacks(out, {channels, size, size});
}

} // namespace detail

/* out [C, image_size, image_size] */
inline result<void> prepare_image(const config &contract, span<const std::uint8_t> pixels, std::int32_t width,
                                  std::int32_t height, std::int64_t stride, span<float> out) {
    if (!detail::picture_fits(contract, pixels, width, height, stride, out))
        return detail::refuse<void>("prepare_image: pixels or out are too short");
    return detail::check(cavmae_prepare_image(contract.get(), pixels.data(), width, height, stride, out.data()));
}

/* out [image_size, image_size, C] */
inline result<void> resize_image(const config &contract, span<const std::uint8_t> pixels, std::int32_t width,
                                 std::int32_t height, std::int64_t stride, span<std::uint8_t> out) {
    if (!detail::picture_fits(contract, pixels, width, height, stride, out))
        return detail::refuse<void>("resize_image: pixels or out are too short");
    return detail::check(cavmae_resize_image(contract.get(), pixels.data(), width, height, stride, out.data()));
}

/* ---- Media files -------------------------------------------------------------------------------------------------- */

inline result<media_info> media_probe(const context &of, text path) {
    media_info out;
    const cavmae_status code = cavmae_media_probe(of.get(), path.c_str(), &out);
    return detail::give(code, out);
}
inline result<media_info> media_probe(const context &of, const cavmae_source &from) {
    media_info out;
    const cavmae_status code = cavmae_media_probe_source(of.get(), &from, &out);
    return detail::give(code, out);
}

/* [samples, channels] at `rate` Hz. */
struct sound {
    tensor samples;
    std::int32_t rate = 0;
};

inline result<sound> media_audio(const context &of, text path) {
    cavmae_tensor *out = nullptr;
    std::int32_t rate = 0;
    const cavmae_status code = cavmae_media_audio(of.get(), path.c_str(), &out, &rate);
    return detail::give(code, sound{tensor(out, of.calls()), rate});
}
inline result<sound> media_audio(const context &of, const cavmae_source &from) {
    cavmae_tensor *out = nullptr;
    std::int32_t rate = 0;
    const cavmae_status code = cavmae_media_audio_source(of.get(), &from, &out, &rate);
    return detail::give(code, sound{tensor(out, of.calls()), rate});
}

inline result<tensor> media_frames(const context &of, text path, span<const double> seconds) {
    cavmae_tensor *out = nullptr;
    const cavmae_status code =
        cavmae_media_frames(of.get(), path.c_str(), seconds.data(), static_cast<std::int32_t>(seconds.size()), &out);
    return detail::give(code, tensor(out, of.calls()));
}
inline result<tensor> media_frames(const context &of, const cavmae_source &from, span<const double> seconds) {
    cavmae_tensor *out = nullptr;
    const cavmae_status code =
        cavmae_media_frames_source(of.get(), &from, seconds.data(), static_cast<std::int32_t>(seconds.size()), &out);
    return detail::give(code, tensor(out, of.calls()));
}

/* ---- Model ---------------------------------------------------------------------------------------------------------- */

/* A window's place in seconds, and the record that was to be filled; non-zero ends the call, which returns it. */
using window_sink =
    std::function<cavmae_status(std::int64_t index, double start, double end, const cavmae_embedding &filled)>;

class model : public detail::handle<cavmae_model, cavmae_model_free> {
  public:
    using handle::handle;

    static result<model> create(const config &of) {
        cavmae_model *out = nullptr;
        const cavmae_status code = cavmae_model_create(of.get(), &out);
        return detail::give(code, model(out, of.calls()));
    }
    /* flags: CAVMAE_LOAD_*; the report is filled on MISMATCH too. */
    static result<model> load(const context &of, text path, std::uint32_t flags = 0,
                              cavmae_load_report *report = nullptr) {
        cavmae_model *out = nullptr;
        const cavmae_status code = cavmae_model_load(of.get(), path.c_str(), flags, report, &out);
        return detail::give(code, model(out, of.calls()));
    }
    result<void> save(text path) const { return detail::check(cavmae_model_save(get(), path.c_str())); }
    result<config> configuration() const {
        cavmae_config *out = nullptr;
        const cavmae_status code = cavmae_model_config(get(), &out);
        return detail::give(code, config(out, calls()));
    }
    /* A model of another configuration from this one's parameters. */
    result<model> adapt(const config &to, cavmae_load_report *report = nullptr) {
        cavmae_model *out = nullptr;
        const cavmae_status code = cavmae_model_adapt(to.get(), get(), report, &out);
        return detail::give(code, model(out, detail::both(calls(), to.calls())));
    }
    result<void> set_dtype(std::int32_t dtype) { return detail::check(cavmae_model_set_dtype(get(), dtype)); }

    std::int64_t parameter_count() const noexcept { return cavmae_model_parameter_count(get()); }
    const char *parameter_name(std::int64_t index) const noexcept { return cavmae_model_parameter_name(get(), index); }
    std::int64_t elements(bool trainable = false) const noexcept {
        return cavmae_model_elements(get(), trainable ? 1 : 0);
    }
    result<tensor> parameter(text name) {
        cavmae_tensor *out = nullptr;
        const cavmae_status code = cavmae_model_parameter(get(), name.c_str(), &out);
        return detail::give(code, tensor(out, calls()));
    }
    result<void> set_parameter(text name, span<const float> values) {
        return detail::check(
            cavmae_model_set_parameter(get(), name.c_str(), values.data(), static_cast<std::int64_t>(values.size())));
    }

    result<void> embed(const cavmae_batch &clips, const cavmae_embedding &out) const {
        return detail::check(cavmae_embed(get(), &clips, &out));
    }
    result<void> embed_file(text path, const cavmae_embedding &out) const {
        return detail::check(cavmae_embed_file(get(), path.c_str(), &out));
    }
    result<void> embed_source(const cavmae_source &from, const cavmae_embedding &out) const {
        return detail::check(cavmae_embed_source(get(), &from, &out));
    }
    /* The sink may be empty with pool. */
    result<void> embed_windows(const cavmae_source &from, const cavmae_window_options &options,
                               const cavmae_embedding &out, const window_sink &sink = nullptr) const {
        windows to{&sink, nullptr};
        const cavmae_status code =
            cavmae_embed_windows(get(), &from, &options, &out, sink ? windows::take : nullptr, &to);
#ifdef __cpp_exceptions
        if (to.thrown) std::rethrow_exception(to.thrown);
#endif
        return detail::check(code);
    }

    /* objective: nullptr for the model's own. */
    result<void> inpaint(const cavmae_batch &clips, std::int64_t draw, cavmae_inpainting &out,
                         const config *objective = nullptr) const {
        return detail::check(cavmae_inpaint(get(), objective ? objective->get() : nullptr, &clips, draw, &out));
    }
    /* heat [B, H/p, W/p], or [B, frames, H/p, W/p] */
    result<void> localize(const cavmae_batch &clips, float *heat) const {
        return detail::check(cavmae_localize(get(), &clips, heat));
    }

  private:
    struct windows {
        const window_sink *sink;
        std::exception_ptr thrown;

        static cavmae_status take(void *user, std::int64_t index, double start, double end,
                                  const cavmae_embedding *filled) noexcept {
            windows &to = *static_cast<windows *>(user);
#ifdef __cpp_exceptions
            try {
                return (*to.sink)(index, start, end, *filled);
            } catch (...) {
                to.thrown = std::current_exception();
                return CAVMAE_E_CANCELLED;
            }
#else
            return (*to.sink)(index, start, end, *filled);
#endif
        }
    };
};

inline result<void> average_models(const context &of, span<const std::string> paths, text out_path) {
    const std::vector<const char *> list = detail::strings(paths);
    return detail::check(
        cavmae_average_models(of.get(), list.data(), static_cast<std::int64_t>(list.size()), out_path.c_str()));
}

/* ---- Data ------------------------------------------------------------------------------------------------------------ */

class loader : public detail::handle<cavmae_loader, cavmae_loader_free> {
  public:
    using handle::handle;

    static result<loader> create(const config &of, text manifest, text labels = nullptr) {
        cavmae_loader *out = nullptr;
        const cavmae_status code = cavmae_loader_create(of.get(), manifest.c_str(), labels.c_str(), &out);
        return detail::give(code, loader(out, of.calls()));
    }
    /* Valid until the next call; nullptr at the end of an epoch. */
    result<const cavmae_batch *> next() {
        const cavmae_batch *out = nullptr;
        const cavmae_status code = cavmae_loader_next(get(), &out);
        return detail::give(code, out);
    }
    result<void> seek(std::int64_t position) { return detail::check(cavmae_loader_seek(get(), position)); }
    std::int64_t count() const noexcept { return cavmae_loader_count(get()); }
    std::int64_t batches() const noexcept { return cavmae_loader_batches(get()); }
    std::int64_t epoch() const noexcept { return cavmae_loader_epoch(get()); }
    std::int64_t broken() const noexcept { return cavmae_loader_broken(get()); }
    std::int32_t classes() const noexcept { return cavmae_loader_classes(get()); }
    const char *class_name(std::int32_t index) const noexcept { return cavmae_loader_class_name(get(), index); }
    /* Its pointers live until the next call. */
    result<loader_item> item_at(std::int64_t index) {
        loader_item out;
        const cavmae_status code = cavmae_loader_item_at(get(), index, &out);
        return detail::give(code, out);
    }
};

inline result<pack_report> pack(const config &contract, text manifest, text labels, text out_path) {
    pack_report out;
    const cavmae_status code = cavmae_pack(contract.get(), manifest.c_str(), labels.c_str(), out_path.c_str(), &out);
    return detail::give(code, out);
}
inline result<pack_report> pack_info(const context &of, text path) {
    pack_report out;
    const cavmae_status code = cavmae_pack_info(of.get(), path.c_str(), &out);
    return detail::give(code, out);
}

/* ---- Training -------------------------------------------------------------------------------------------------------- */

class optimizer : public detail::handle<cavmae_optimizer, cavmae_optimizer_free> {
  public:
    using handle::handle;

    static result<optimizer> create(model &of, const config &as) {
        cavmae_optimizer *out = nullptr;
        const cavmae_status code = cavmae_optimizer_create(of.get(), as.get(), &out);
        return detail::give(code, optimizer(out, detail::both(of.calls(), as.calls())));
    }
    result<void> group(text prefix, double lr_factor, double weight_decay) {
        return detail::check(cavmae_optimizer_group(get(), prefix.c_str(), lr_factor, weight_decay));
    }
    std::int64_t updates() const noexcept { return cavmae_optimizer_updates(get()); }
    double lr() const noexcept { return cavmae_optimizer_lr(get()); }
};

class trainer : public detail::handle<cavmae_trainer, cavmae_trainer_free> {
  public:
    using handle::handle;

    static result<trainer> create(model &of, optimizer &with, const config &as) {
        cavmae_trainer *out = nullptr;
        const cavmae_status code = cavmae_trainer_create(of.get(), with.get(), as.get(), &out);
        return detail::give(code, trainer(out, detail::both(detail::both(of.calls(), with.calls()), as.calls())));
    }
    /* One that only evaluates. */
    static result<trainer> create(model &of, const config &as) {
        cavmae_trainer *out = nullptr;
        const cavmae_status code = cavmae_trainer_create(of.get(), nullptr, as.get(), &out);
        return detail::give(code, trainer(out, detail::both(of.calls(), as.calls())));
    }

    result<step_result> pretrain_step(const cavmae_batch &clips) {
        step_result out;
        const cavmae_status code = cavmae_pretrain_step(get(), &clips, &out);
        return detail::give(code, out);
    }
    result<step_result> finetune_step(const cavmae_batch &clips) {
        step_result out;
        const cavmae_status code = cavmae_finetune_step(get(), &clips, &out);
        return detail::give(code, out);
    }
    /* C's steps with result NULL: a GPU's is not waited for. */
    result<void> pretrain_step_unwaited(const cavmae_batch &clips) {
        return detail::check(cavmae_pretrain_step(get(), &clips, nullptr));
    }
    result<void> finetune_step_unwaited(const cavmae_batch &clips) {
        return detail::check(cavmae_finetune_step(get(), &clips, nullptr));
    }
    result<step_result> last_result(bool wait = true) {
        step_result out;
        const cavmae_status code = cavmae_trainer_result(get(), wait ? 1 : 0, &out);
        return detail::give(code, out);
    }
    result<step_result> pretrain_evaluate(const cavmae_batch &clips, std::int64_t batch_number) {
        step_result out;
        const cavmae_status code = cavmae_pretrain_evaluate(get(), &clips, batch_number, &out);
        return detail::give(code, out);
    }
    result<step_result> finetune_evaluate(const cavmae_batch &clips) {
        step_result out;
        const cavmae_status code = cavmae_finetune_evaluate(get(), &clips, &out);
        return detail::give(code, out);
    }

    /* which: CAVMAE_OUT_* */
    result<tensor> output(std::int32_t which) {
        cavmae_tensor *out = nullptr;
        const cavmae_status code = cavmae_trainer_output(get(), which, &out);
        return detail::give(code, tensor(out, calls()));
    }
    result<tensor> gradient(text name) {
        cavmae_tensor *out = nullptr;
        const cavmae_status code = cavmae_trainer_gradient(get(), name.c_str(), &out);
        return detail::give(code, tensor(out, calls()));
    }

    result<void> checkpoint_save(text path, const loader *place = nullptr) {
        return detail::check(cavmae_checkpoint_save(get(), place ? place->get() : nullptr, path.c_str()));
    }
    result<void> checkpoint_load(text path, loader *place = nullptr) {
        return detail::check(cavmae_checkpoint_load(get(), place ? place->get() : nullptr, path.c_str()));
    }
};

/* ---- Localisation ----------------------------------------------------------------------------------------------------- */

/* heat [rows, columns], out [height, width] */
inline result<void> heatmap_resize(span<const float> heat, std::int32_t rows, std::int32_t columns, std::int32_t height,
                                   std::int32_t width, span<float> out) {
    if (detail::lacks(heat, {rows, columns}) || detail::lacks(out, {height, width}))
        return detail::refuse<void>("heatmap_resize: heat or out is too short");
    return detail::check(cavmae_heatmap_resize(heat.data(), rows, columns, height, width, out.data()));
}

/* heat [count, rows, columns]; boxes x0, y0, x1, y1; box_counts [count], or empty: one each; iou [count], or empty. */
inline result<localization_metrics> localization_from_boxes(const context &of, span<const float> heat,
                                                            std::int64_t count, std::int32_t rows, std::int32_t columns,
                                                            std::int32_t height, std::int32_t width,
                                                            span<const std::array<double, 4>> boxes,
                                                            span<const std::int32_t> box_counts, double threshold,
                                                            span<double> iou = {}) {
    std::int64_t all = count;
    if (box_counts.size() != 0) {
        all = 0;
        for (const std::int32_t some : box_counts) all += some > 0 ? some : 0;
    }
    if (detail::lacks(heat, {count, rows, columns}) || detail::lacks(boxes, {all}) ||
        detail::falls_short(box_counts, {count}) || detail::falls_short(iou, {count}))
        return detail::refuse<localization_metrics>(
            "localization_from_boxes: heat, boxes, box_counts or iou is too short");
    localization_metrics out;
    const cavmae_status code = cavmae_localization_from_boxes(of.get(), heat.data(), count, rows, columns, height,
                                                              width, reinterpret_cast<const double(*)[4]>(boxes.data()),
                                                              box_counts.data(), threshold, iou.data(), &out);
    return detail::give(code, out);
}

/* ---- Search and metrics --------------------------------------------------------------------------------------------- */

class index : public detail::handle<cavmae_index, cavmae_index_free> {
  public:
    using handle::handle;

    static result<index> create(const context &of, std::int32_t dim) {
        cavmae_index *out = nullptr;
        const cavmae_status code = cavmae_index_create(of.get(), dim, &out);
        return detail::give(code, index(out, of.calls()));
    }
    static result<index> load(const context &of, text path) {
        cavmae_index *out = nullptr;
        const cavmae_status code = cavmae_index_load(of.get(), path.c_str(), &out);
        return detail::give(code, index(out, of.calls()));
    }
    static result<index> load_part(const context &of, text path, std::int32_t part, std::int32_t parts,
                                   std::int64_t *first = nullptr) {
        cavmae_index *out = nullptr;
        const cavmae_status code = cavmae_index_load_part(of.get(), path.c_str(), part, parts, first, &out);
        return detail::give(code, index(out, of.calls()));
    }
    result<void> save(text path) const { return detail::check(cavmae_index_save(get(), path.c_str())); }

    /* rows [count, dim] */
    result<void> add(span<const float> rows) {
        const std::int32_t width = dim();
        if (width > 0 && rows.size() % static_cast<std::size_t>(width) != 0)
            return detail::refuse<void>("index.add: rows are no multiple of the index's dim");
        return detail::check(cavmae_index_add(get(), rows.data(), detail::rows(rows.size(), width)));
    }
    std::int64_t count() const noexcept { return cavmae_index_count(get()); }
    std::int32_t dim() const noexcept { return cavmae_index_dim(get()); }

    /* queries [count, dim]; ids, scores [count, k] */
    result<void> search(span<const float> queries, std::int32_t k, span<std::int64_t> ids, span<float> scores) const {
        std::int64_t rows = 0;
        if (!fit(queries, k, ids, scores, &rows))
            return detail::refuse<void>("index.search: queries, ids or scores have the wrong length");
        return detail::check(cavmae_index_search(get(), queries.data(), rows, k, ids.data(), scores.data()));
    }
    result<void> search_world(const world &in, span<const float> queries, std::int32_t k, span<std::int64_t> ids,
                              span<float> scores) {
        std::int64_t rows = 0;
        if (!fit(queries, k, ids, scores, &rows))
            return detail::refuse<void>("index.search_world: queries, ids or scores have the wrong length");
        return detail::check(
            cavmae_index_search_world(get(), in.get(), queries.data(), rows, k, ids.data(), scores.data()));
    }

  private:
    bool fit(span<const float> queries, std::int32_t k, span<std::int64_t> ids, span<float> scores,
             std::int64_t *rows) const {
        const std::int32_t width = dim();
        *rows = detail::rows(queries.size(), width);
        return queries.size() == detail::elements({*rows, width}) && !detail::lacks(ids, {*rows, k}) &&
               !detail::lacks(scores, {*rows, k});
    }
};

/* similarity [count, count]; ties: CAVMAE_TIES_* */
inline result<retrieval_metrics> retrieval_from_similarity(span<const float> similarity, std::int64_t count,
                                                           std::int32_t ties = CAVMAE_TIES_FOR_MATCH) {
    if (detail::lacks(similarity, {count, count}))
        return detail::refuse<retrieval_metrics>("retrieval_from_similarity: fewer than count * count numbers");
    retrieval_metrics out;
    out.ties = ties;
    const cavmae_status code = cavmae_retrieval_from_similarity(similarity.data(), count, &out);
    return detail::give(code, out);
}

/* queries, gallery [count, dim] */
inline result<retrieval_metrics> retrieval_from_embeddings(const context &of, span<const float> queries,
                                                           span<const float> gallery, std::int32_t dim,
                                                           std::int32_t ties = CAVMAE_TIES_FOR_MATCH) {
    const std::int64_t count = detail::rows(queries.size(), dim);
    if (queries.size() != gallery.size() || queries.size() != detail::elements({count, dim}))
        return detail::refuse<retrieval_metrics>("retrieval_from_embeddings: not two times the same count of rows");
    retrieval_metrics out;
    out.ties = ties;
    const cavmae_status code =
        cavmae_retrieval_from_embeddings(of.get(), queries.data(), gallery.data(), count, dim, &out);
    return detail::give(code, out);
}

/* scores, targets [count, classes]; average_precision, auc [classes], or empty. settings: subset and as_reference. */
inline result<class_metrics> classification_metrics(const context &of, span<const float> scores,
                                                    span<const float> targets, std::int32_t classes,
                                                    span<double> average_precision = {}, span<double> auc = {},
                                                    class_metrics settings = class_metrics()) {
    const std::int64_t count = detail::rows(scores.size(), classes);
    if (scores.size() != targets.size() || scores.size() != detail::elements({count, classes}) ||
        detail::falls_short(average_precision, {classes}) || detail::falls_short(auc, {classes}))
        return detail::refuse<class_metrics>("classification_metrics: a length does not fit classes");
    const cavmae_status code = cavmae_classification_metrics(of.get(), scores.data(), targets.data(), count, classes,
                                                             average_precision.data(), auc.data(), &settings);
    return detail::give(code, settings);
}

/* scores [count, classes], target [count] */
inline result<double> top1_accuracy(span<const float> scores, span<const std::int64_t> target, std::int32_t classes) {
    const auto count = static_cast<std::int64_t>(target.size());
    if (detail::lacks(scores, {count, classes}))
        return detail::refuse<double>("top1_accuracy: fewer scores than targets * classes");
    double out = 0;
    const cavmae_status code = cavmae_top1_accuracy(scores.data(), target.data(), count, classes, &out);
    return detail::give(code, out);
}

/* per_class [classes], or empty. settings: subset. */
inline result<topk_metrics> topk_accuracy(const context &of, span<const float> scores, span<const std::int64_t> target,
                                          std::int32_t classes, std::int32_t k, span<double> per_class = {},
                                          topk_metrics settings = topk_metrics()) {
    const auto count = static_cast<std::int64_t>(target.size());
    if (detail::lacks(scores, {count, classes}) || detail::falls_short(per_class, {classes}))
        return detail::refuse<topk_metrics>("topk_accuracy: scores or per_class is too short");
    const cavmae_status code =
        cavmae_topk_accuracy(of.get(), scores.data(), target.data(), count, classes, k, per_class.data(), &settings);
    return detail::give(code, settings);
}

} // namespace throwing or returning
} // namespace cavmae

#endif
