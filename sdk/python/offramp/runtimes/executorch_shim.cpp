// The part of ExecuTorch that Offramp needs, as plain C functions for ctypes.
//
// A program is one .pte file with one method for each stage. Its bytes, its methods and the carries
// between them live here; Python hands in the memory of the image and of each stage's logits once,
// and then only says which stage to run. Functions that can fail return 0 or nullptr and leave a
// sentence in offramp_error(), one for each thread.

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <executorch/extension/data_loader/buffer_data_loader.h>
#include <executorch/extension/memory_allocator/malloc_memory_allocator.h>
#include <executorch/extension/threadpool/threadpool_guard.h>
#include <executorch/runtime/backend/backend_options_map.h>
#include <executorch/runtime/executor/program.h>
#include <executorch/runtime/platform/platform.h>
#include <executorch/runtime/platform/runtime.h>

// The library exports its pool; the wheel leaves the header of it out.
namespace executorch::extension::threadpool {
class ThreadPool {
 public:
  bool _unsafe_reset_threadpool(uint32_t threads);
  size_t get_thread_count() const;
};
ThreadPool* get_threadpool();
} // namespace executorch::extension::threadpool

namespace {

namespace et = executorch::runtime;
using executorch::extension::BufferDataLoader;
using executorch::extension::MallocMemoryAllocator;
using executorch::extension::threadpool::get_threadpool;
using executorch::extension::threadpool::NoThreadPoolGuard;
using executorch::runtime::etensor::ScalarType;
using executorch::runtime::etensor::Tensor;
using executorch::runtime::etensor::TensorImpl;

constexpr size_t kAlignment = 64;

thread_local std::string failure;
thread_local std::string complaints;

// ExecuTorch says why in its log only.
void keep_complaint(
    et_timestamp_t, et_pal_log_level_t level, const char*, const char*, size_t,
    const char* message, size_t length) {
  if (level == et_pal_log_level_t::kError || level == et_pal_log_level_t::kFatal) {
    if (!complaints.empty()) {
      complaints += "; ";
    }
    complaints.append(message, length);
  }
}

std::nullptr_t fail(const std::string& doing, et::Error error) {
  failure = doing + ": error " + std::to_string(static_cast<int>(error));
  if (!complaints.empty()) {
    failure += " (" + complaints + ")";
  }
  return nullptr;
}

struct Free {
  void operator()(void* memory) const {
    std::free(memory);
  }
};
using Memory = std::unique_ptr<void, Free>;

Memory allocate(size_t size_bytes) {
  // Kernels may read a little past the end of what they are given.
  size_t whole = (size_bytes + 2 * kAlignment) / kAlignment * kAlignment;
  return Memory(std::aligned_alloc(kAlignment, whole));
}

// Keeps the pool of the process away from this thread while a program of one thread is at work.
class Alone {
 public:
  explicit Alone(bool alone) : before_(NoThreadPoolGuard::is_enabled()) {
    NoThreadPoolGuard::set_enabled(alone || before_);
  }
  ~Alone() {
    NoThreadPoolGuard::set_enabled(before_);
  }

 private:
  bool before_;
};

struct Stage {
  std::vector<Memory> memory;
  std::vector<et::Span<uint8_t>> spans;
  std::unique_ptr<et::HierarchicalAllocator> planned;
  MallocMemoryAllocator temporary;
  std::unique_ptr<et::MemoryManager> manager;
  std::unique_ptr<et::Method> method;
  void* logits = nullptr;
};

struct Program {
  bool alone = true;
  Memory bytes;
  std::unique_ptr<BufferDataLoader> loader;
  std::unique_ptr<et::Program> program;
  // One for all methods: the delegate takes it for the model's identity, whose stages, which never
  // run at once, share their scratch memory.
  MallocMemoryAllocator methods;
  std::vector<std::unique_ptr<Stage>> stages;
  std::vector<TensorImpl::SizesType> sizes;
  std::vector<TensorImpl::DimOrderType> order;
  std::vector<TensorImpl::StridesType> strides;
  std::unique_ptr<TensorImpl> image;
};

const char* name_of(ScalarType type) {
  switch (type) {
    case ScalarType::Float:
      return "float32";
    case ScalarType::Half:
      return "float16";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Byte:
      return "uint8";
    default:
      return "another type";
  }
}

template <typename Numbers>
std::string listed(const Numbers& numbers) {
  std::string text;
  for (size_t place = 0; place < numbers.size(); ++place) {
    text += (place ? "," : "") + std::to_string(static_cast<int>(numbers[place]));
  }
  return text;
}

std::string described(const et::Result<et::TensorInfo>& info) {
  if (!info.ok()) {
    return "no tensor\t\t";
  }
  return std::string(name_of(info->scalar_type())) + "\t" + listed(info->sizes()) + "\t" +
      listed(info->dim_order());
}

} // namespace

extern "C" {

const char* offramp_error() {
  return failure.c_str();
}

// alone: run on the calling thread, without the pool of the process.
void* offramp_open(const void* bytes, size_t size_bytes, int alone) {
  static std::once_flag once;
  std::call_once(once, [] {
    et::runtime_init();
    et::register_pal(et::PalImpl::create(keep_complaint, "offramp"));
  });
  complaints.clear();
  auto program = std::make_unique<Program>();
  program->alone = alone != 0;
  program->bytes = allocate(size_bytes);
  if (program->bytes == nullptr) {
    failure = "there is not enough memory for the program";
    return nullptr;
  }
  std::memcpy(program->bytes.get(), bytes, size_bytes);
  program->loader = std::make_unique<BufferDataLoader>(program->bytes.get(), size_bytes);
  auto loaded = et::Program::load(
      program->loader.get(), et::Program::Verification::InternalConsistency);
  if (!loaded.ok()) {
    return fail("the file was refused", loaded.error());
  }
  program->program = std::make_unique<et::Program>(std::move(loaded.get()));
  return program.release();
}

void offramp_close(void* handle) {
  delete static_cast<Program*>(handle);
}

// One line for each tensor at the edge of each stage's method: method, "input" or "output", type, shape,
// order of the axes in memory; separated by tabs. Returns the length it takes, 0 on failure.
size_t offramp_describe(void* handle, char* text, size_t capacity) {
  complaints.clear();
  auto& program = *static_cast<Program*>(handle)->program;
  std::string lines;
  for (size_t place = 0; place < program.num_methods(); ++place) {
    auto name = program.get_method_name(place);
    if (!name.ok()) {
      fail("its methods could not be read", name.error());
      return 0;
    }
    std::string method = name.get();
    if (method.rfind("stage_", 0) != 0) {
      continue;  // such as get_labels: it returns a constant to apps, and is never run here
    }
    auto meta = program.method_meta(name.get());
    if (!meta.ok()) {
      fail(method + " could not be read", meta.error());
      return 0;
    }
    for (size_t input = 0; input < meta->num_inputs(); ++input) {
      lines += method + "\tinput\t" + described(meta->input_tensor_meta(input)) + "\n";
    }
    for (size_t output = 0; output < meta->num_outputs(); ++output) {
      lines += method + "\toutput\t" + described(meta->output_tensor_meta(output)) + "\n";
    }
  }
  if (lines.size() < capacity) {
    std::memcpy(text, lines.c_str(), lines.size() + 1);
  }
  return lines.size();
}

// Loads the methods stage_0, stage_1, ... whose edges the caller has compared with the manifest.
// image: float32, as large as the input of stage_0; logits[s]: float32, as large as its first
// output. Both stay the caller's and must outlive the program.
int offramp_bind(void* handle, size_t stages, void* image, void** logits) {
  complaints.clear();
  auto& self = *static_cast<Program*>(handle);
  Alone alone(self.alone);
  // Scratch memory for each program: with the default, one for the process, programs of several
  // threads would wait for each other.
  et::BackendOptions<1> options;
  et::LoadBackendOptionsMap backends;
  if (options.set_option("workspace_sharing_mode", 1) != et::Error::Ok ||
      backends.set_options("XnnpackBackend", options.view()) != et::Error::Ok) {
    failure = "the options of XNNPACK were refused";
    return 0;
  }
  for (size_t number = 0; number < stages; ++number) {
    std::string name = "stage_" + std::to_string(number);
    auto meta = self.program->method_meta(name.c_str());
    if (!meta.ok()) {
      fail(name + " could not be read", meta.error());
      return 0;
    }
    auto stage = std::make_unique<Stage>();
    for (size_t place = 0; place < meta->num_memory_planned_buffers(); ++place) {
      auto size_bytes = meta->memory_planned_buffer_size(place);
      if (!size_bytes.ok() || size_bytes.get() < 0) {
        fail("the memory plan of " + name + " could not be read", size_bytes.error());
        return 0;
      }
      auto size = static_cast<size_t>(size_bytes.get());
      stage->memory.push_back(allocate(size));
      if (stage->memory.back() == nullptr) {
        failure = "there is not enough memory for " + name;
        return 0;
      }
      stage->spans.push_back({static_cast<uint8_t*>(stage->memory.back().get()), size});
    }
    stage->planned = std::make_unique<et::HierarchicalAllocator>(
        et::Span<et::Span<uint8_t>>{stage->spans.data(), stage->spans.size()});
    stage->manager = std::make_unique<et::MemoryManager>(
        &self.methods, stage->planned.get(), &stage->temporary);
    auto method = self.program->load_method(
        name.c_str(), stage->manager.get(), nullptr, nullptr, &backends);
    if (!method.ok()) {
      fail(name + " could not be loaded", method.error());
      return 0;
    }
    stage->method = std::make_unique<et::Method>(std::move(method.get()));
    stage->logits = logits[number];
    if (number == 0) {
      auto input = meta->input_tensor_meta(0);
      if (!input.ok()) {
        fail("the image of " + name + " could not be read", input.error());
        return 0;
      }
      auto axes = input->sizes().size();
      self.strides.assign(axes, 1);
      for (size_t axis = 0; axis < axes; ++axis) {
        self.sizes.push_back(input->sizes()[axis]);
        self.order.push_back(static_cast<TensorImpl::DimOrderType>(axis));
      }
      for (size_t axis = axes; axis-- > 1;) {
        self.strides[axis - 1] = self.strides[axis] * self.sizes[axis];
      }
      self.image = std::make_unique<TensorImpl>(
          ScalarType::Float, axes, self.sizes.data(), image, self.order.data(),
          self.strides.data());
    }
    self.stages.push_back(std::move(stage));
  }
  return 1;
}

// Runs one stage on the image or on the outputs of the stage before it, and leaves its logits in
// the caller's memory. Order is the caller's business.
int offramp_run(void* handle, size_t number) {
  complaints.clear();
  auto& self = *static_cast<Program*>(handle);
  Alone alone(self.alone);
  auto& stage = *self.stages[number];
  auto& method = *stage.method;
  for (size_t place = 0; place < method.inputs_size(); ++place) {
    auto error = number == 0
        ? method.set_input(et::EValue(Tensor(self.image.get())), place)
        : method.set_input(self.stages[number - 1]->method->get_output(place + 1), place);
    if (error != et::Error::Ok) {
      fail("input " + std::to_string(place) + " was refused", error);
      return 0;
    }
  }
  auto error = method.execute();
  if (error != et::Error::Ok) {
    fail("it did not run", error);
    return 0;
  }
  const auto& logits = method.get_output(0).toTensor();
  std::memcpy(stage.logits, logits.const_data_ptr(), logits.nbytes());
  return 1;
}

size_t offramp_pool_threads() {
  auto* pool = get_threadpool();
  return pool == nullptr ? 0 : pool->get_thread_count();
}

// Loaded programs keep pointers into the pool, so no program that uses it may be open.
int offramp_resize_pool(size_t threads) {
  auto* pool = get_threadpool();
  return pool != nullptr && pool->_unsafe_reset_threadpool(static_cast<uint32_t>(threads));
}

} // extern "C"
