// A device for tests: its tensors lie in host memory and say that they lie elsewhere.
//
// Every operator is run by the CPU's kernel, on CPU tensors that share the memory of the device's tensors (aliases).
// What a real accelerator refuses is refused before the kernel runs:
//   - NumPy and other readers of host memory: PyTorch itself refuses, for no tensor of this device is on the CPU;
//   - operands on two devices, but for a CPU tensor without dimensions where CUDA's kernels take one;
//   - index tensors of this device into a CPU tensor;
//   - random generators of the other device;
//   - float64, as Apple's MPS does, unless a test allows it.
// What makes a host wait for an accelerator is reported to Python (`watch`): copies to and from the host, and operators
// whose result's shape depends on values.
//
// Not seen: branches on `is_cuda`, streams, the speed and the rounding of other kernels, memory that runs out.
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/SparseTensorImpl.h>
#include <ATen/autocast_mode.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/SparseTensorUtils.h>
#include <ATen/ops/_local_scalar_dense.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/_sparse_coo_tensor_unsafe.h>
#include <ATen/ops/_sparse_coo_tensor_with_dims_and_tensors_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/set_cpu_dispatch.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/csrc/utils/pybind.h>
#include <torch/library.h>

#include <set>
#include <unordered_map>

namespace {
using at::IntArrayRef;
using at::Tensor;
using c10::Device;
using c10::IValue;

constexpr auto kType = c10::DeviceType::PrivateUse1;
Device this_device() { return Device(kType, 0); }
bool is_here(const Tensor& t) { return t.defined() && t.device().type() == kType; }
bool is_here(const IValue& v) { return v.isDevice() && v.toDevice().type() == kType; }

// ---- what PyTorch asks of every device: memory, a current device, random numbers

struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(size_t num_bytes) override {
    auto data = c10::GetAllocator(c10::kCPU)->allocate(num_bytes);
    data.unsafe_set_device(this_device());
    return data;
  }
  c10::DeleterFnPtr raw_deleter() const override { return c10::GetAllocator(c10::kCPU)->raw_deleter(); }
  void copy_data(void* to, const void* from, std::size_t num_bytes) const override {
    default_copy_data(to, from, num_bytes);
  }
};
Allocator allocator;
REGISTER_ALLOCATOR(kType, &allocator);

struct Guard final : c10::impl::DeviceGuardImplInterface {  // one device, and one stream that never runs ahead
  c10::DeviceType type() const override { return kType; }
  Device exchangeDevice(Device) const override { return this_device(); }
  Device getDevice() const override { return this_device(); }
  void setDevice(Device) const override {}
  void uncheckedSetDevice(Device) const noexcept override {}
  c10::Stream getStream(Device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, this_device()); }
  c10::Stream getDefaultStream(Device) const override { return getStream(this_device()); }
  c10::Stream getNewStream(Device, int) const override { return getStream(this_device()); }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return getStream(this_device()); }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override {}
  void synchronizeEvent(void*) const override {}
  void synchronizeDevice(const c10::DeviceIndex) const override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Generator final : at::CPUGeneratorImpl {  // says it is this device's; draws with one of the CPU's
  at::Generator host;
  Generator() : host(at::detail::createCPUGenerator()) {
    device_ = this_device();
    key_set_ = c10::DispatchKeySet(c10::DispatchKey::PrivateUse1);
  }
  void set_current_seed(uint64_t seed) override { host.set_current_seed(seed); }
  uint64_t current_seed() const override { return host.current_seed(); }
  uint64_t seed() override { return host.seed(); }
  void set_state(const c10::TensorImpl& state) override { host.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override { return host.unsafeGetGeneratorImpl()->get_state(); }
};

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  at::Allocator* getPinnedMemoryAllocator() const override { return c10::GetAllocator(c10::kCPU); }
  at::Generator getNewGenerator(c10::DeviceIndex) const override { return at::make_generator<Generator>(); }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex) const override {
    static auto generator = at::make_generator<Generator>();
    return generator;
  }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t num_bytes) const override {
    auto data = allocator.allocate(num_bytes);
    std::memcpy(data.get(), storage.data(), std::min(num_bytes, storage.nbytes()));
    storage.unsafeGetStorageImpl()->set_data_ptr(std::move(data));
    storage.unsafeGetStorageImpl()->set_nbytes(num_bytes);
  }
};

// ---- what makes the host wait

bool is_watched = false;
py::object watcher;  // called with a kind and the operator's name
void report(const char* kind, const std::string& name) {
  if (!is_watched) return;
  py::gil_scoped_acquire gil;
  watcher(kind, name);
}

bool has_float64 = false;
void refuse_float64(at::ScalarType dtype) {
  TORCH_CHECK(has_float64 || dtype != at::kDouble, "this device has no float64, as Apple's MPS has none");
}

// ---- one memory, two tensors: one of this device and one of the CPU

void release(void* storage) { delete static_cast<c10::Storage*>(storage); }

c10::DataPtr same_memory(const c10::Storage& of, Device device) {  // holds the storage for as long as it is used
  return {of.unsafeGetStorageImpl()->mutable_data(), new c10::Storage(of), &release, device};
}

Tensor tensor_on(c10::Storage storage, const Tensor& shape, c10::DispatchKey key) {
  auto made = at::detail::make_tensor<c10::TensorImpl>(std::move(storage), c10::DispatchKeySet(key), shape.dtype());
  auto* impl = made.unsafeGetTensorImpl();
  impl->set_storage_offset(shape.storage_offset());
  impl->set_sizes_and_strides(shape.sizes(), shape.strides());
  if (shape.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
  return made;
}

class Aliases {  // of the tensors of one call
  std::unordered_map<c10::StorageImpl*, c10::Storage> to_host_, to_device_;
  std::vector<std::pair<Tensor, Tensor>> pairs_;  // of this device, of the CPU

  static c10::Storage other(const c10::Storage& of, Device device, c10::Allocator* by) {
    return c10::Storage(c10::Storage::use_byte_size_t(), of.nbytes(), same_memory(of, device), by, true);
  }

 public:
  Tensor host(const Tensor& t) {
    if (!is_here(t)) return t;
    for (auto& [device, host] : pairs_)
      if (device.is_same(t)) return host;
    if (t.is_sparse()) {
      auto* impl = at::sparse::get_sparse_impl(t);
      auto made = at::_sparse_coo_tensor_unsafe(host(impl->indices()), host(impl->values()), t.sizes());
      return made._coalesced_(impl->coalesced());
    }
    auto* key = t.storage().unsafeGetStorageImpl();
    auto found = to_host_.find(key);
    if (found == to_host_.end()) {
      auto storage = other(t.storage(), c10::kCPU, c10::GetAllocator(c10::kCPU));
      to_device_.emplace(storage.unsafeGetStorageImpl(), t.storage());
      found = to_host_.emplace(key, std::move(storage)).first;
    }
    auto made = tensor_on(found->second, t, c10::DispatchKey::CPU);
    pairs_.emplace_back(t, made);
    return made;
  }

  Tensor device(const Tensor& t) {
    if (!t.defined() || !t.device().is_cpu()) return t;
    refuse_float64(t.scalar_type());
    if (t.is_sparse()) {
      auto* impl = at::sparse::get_sparse_impl(t);
      return at::native::new_with_dims_and_tensor_sparse_symint(
          impl->sparse_dim(), impl->dense_dim(), t.sym_sizes(), device(impl->indices()), device(impl->values()),
          t.scalar_type(), c10::kSparse, this_device(), false, impl->coalesced());
    }
    auto* key = t.storage().unsafeGetStorageImpl();
    auto found = to_device_.find(key);
    if (found == to_device_.end())
      found = to_device_.emplace(key, other(t.storage(), this_device(), &allocator)).first;
    return tensor_on(found->second, t, c10::DispatchKey::PrivateUse1);
  }

  void write_back() {  // what a kernel resized, reshaped or gave other memory
    for (auto& [device, host] : pairs_) {
      auto* storage = device.storage().unsafeGetStorageImpl();
      if (host.storage().data() != storage->data() || host.storage().nbytes() != storage->nbytes()) {
        storage->set_data_ptr(same_memory(host.storage(), this_device()));
        storage->set_nbytes(host.storage().nbytes());
      }
      device.unsafeGetTensorImpl()->set_storage_offset(host.storage_offset());
      device.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides());
    }
  }
};

// ---- every operator: refuse, run the CPU's kernel, report

using Names = std::set<std::string>;
const Names takes_indices = {"aten::index.Tensor_out", "aten::index_put_", "aten::_index_put_impl_"};
// CUDA's kernels of these take no CPU tensor, not even one without dimensions.
const Names takes_no_host_scalar = {
    "aten::cat", "aten::cat.out", "aten::stack", "aten::index_select", "aten::gather.out", "aten::mm.out",
    "aten::bmm.out", "aten::addmm.out"};
const Names shape_depends_on_values = {
    "aten::nonzero", "aten::nonzero.out", "aten::masked_select", "aten::masked_select.out", "aten::_unique2",
    "aten::unique_dim", "aten::unique_consecutive", "aten::equal", "aten::repeat_interleave.Tensor", "aten::bincount",
    "aten::histc"};

void collect(const IValue& value, std::vector<Tensor>& found) {
  if (value.isTensor() && value.toTensor().defined()) found.push_back(value.toTensor());
  if (value.isTensorList())
    for (const Tensor& t : value.toTensorVector()) if (t.defined()) found.push_back(t);
  if (value.isOptionalTensorList())
    for (const auto& t : value.toOptionalTensorVector()) if (t && t->defined()) found.push_back(*t);
}

// The arguments: the indexed tensor, its indices, and for a write the values. Returns whether a mask is among the
// indices whose True entries the host must count.
bool check_indices(const std::string& name, const std::vector<IValue>& given) {
  const auto& self = given[0].toTensor();
  std::vector<Tensor> indices;
  collect(given[1], indices);
  bool all_masks = true, some_mask = false;
  for (const auto& index : indices) {
    TORCH_CHECK(index.is_cpu() || index.device() == self.device(), "indices should be either on ", at::kCPU,
                " or on the same device as the indexed tensor (", self.device(), ")");
    const bool is_mask = index.scalar_type() == at::kBool || index.scalar_type() == at::kByte;
    all_masks &= is_mask;
    some_mask |= is_mask;
    if (is_here(self) && index.is_cpu() && index.dim() > 0) report("host to device", name + " (indices)");
  }
  // x[mask] = number is a masked_fill, which needs no count.
  const bool is_fill = given.size() > 2 && given[2].isTensor() && given[2].toTensor().is_cpu() && all_masks;
  return some_mask && !is_fill;
}

void check_devices(const std::string& name, const std::vector<Tensor>& operands) {
  for (const auto& t : operands)
    TORCH_CHECK(is_here(t) || (t.dim() == 0 && !takes_no_host_scalar.count(name)),
                "Expected all tensors to be on the same device, but found at least two devices, ", this_device(),
                " and ", t.device(), "! (when checking arguments of ", name, ")");
}

IValue on_host(const IValue& value, Aliases& alias, bool draws_here) {
  if (value.isTensor()) return alias.host(value.toTensor());
  if (is_here(value)) return Device(c10::kCPU);
  if (value.isTensorList()) {
    auto list = value.toTensorVector();
    for (auto& t : list) t = alias.host(t);
    return c10::List<Tensor>(list);
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> list;
    for (const auto& t : value.toOptionalTensorVector()) list.push_back(t ? std::make_optional(alias.host(*t)) : t);
    return list;
  }
  if (value.isGenerator() && value.toGenerator().defined()) {
    auto generator = value.toGenerator();
    const bool is_ours = generator.device().type() == kType;
    TORCH_CHECK(is_ours == draws_here, "Expected a '", c10::DeviceTypeName(draws_here ? kType : c10::kCPU, true),
                "' device type for generator but found '", generator.device().type(), "'");
    if (is_ours) return static_cast<Generator*>(generator.unsafeGetGeneratorImpl())->host;
  }
  return value;
}

// A result that is written into an argument is that argument; any other is an alias of what the kernel made.
IValue on_device(const IValue& result, size_t number, const c10::FunctionSchema& schema,
                 const std::vector<IValue>& given, Aliases& alias) {
  const auto* info = schema.returns()[number].alias_info();
  if (info && info->isWrite())
    for (size_t a = 0; a < given.size(); a++) {
      const auto* argument = schema.arguments()[a].alias_info();
      if (argument && argument->isWrite() && argument->beforeSets() == info->beforeSets()) return given[a];
    }
  if (result.isTensor()) return alias.device(result.toTensor());
  if (result.isTensorList()) {
    auto list = result.toTensorVector();
    for (auto& t : list) t = alias.device(t);
    return c10::List<Tensor>(list);
  }
  return result;
}

void run_on_host(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const auto name = c10::toString(op.operator_name());
  const std::vector<IValue> given(stack->end() - schema.arguments().size(), stack->end());

  std::vector<Tensor> operands;
  bool is_counted = shape_depends_on_values.count(name);
  const bool indexes = takes_indices.count(name);
  if (indexes) is_counted |= check_indices(name, given);
  for (size_t a = 0; a < given.size(); a++)
    if (!indexes || a != 1) collect(given[a], operands);
  const bool has_operand_here = std::any_of(operands.begin(), operands.end(), [](auto& t) { return is_here(t); });
  const bool is_made_here =
      has_operand_here || std::any_of(given.begin(), given.end(), [](auto& v) { return is_here(v); });
  if (has_operand_here) check_devices(name, operands);
  if (has_operand_here && is_counted) report("shape from values", name);

  Aliases alias;
  for (auto value = stack->end() - given.size(); value != stack->end(); ++value)
    *value = on_host(*value, alias, is_made_here);
  const bool is_sparse = std::any_of(operands.begin(), operands.end(), [](auto& t) { return t.is_sparse(); });
  auto keys = c10::DispatchKeySet(c10::DispatchKey::CPU);
  op.redispatchBoxed(is_sparse ? keys.add(c10::DispatchKey::SparseCPU) : keys, stack);
  alias.write_back();
  if (!is_made_here) return;
  const auto num_results = schema.returns().size();
  for (size_t r = 0; r < num_results; r++) {
    auto& result = *(stack->end() - num_results + r);
    result = on_device(result, r, schema, given, alias);
  }
}

// ---- what needs a kernel of its own: making tensors, copies, views, convolutions

Tensor empty(IntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<Device>,
             std::optional<bool>, std::optional<at::MemoryFormat> format) {
  refuse_float64(c10::dtype_or_default(dtype));
  const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_generic(size, &allocator, keys, c10::dtype_or_default(dtype), format);
}
Tensor empty_strided(IntArrayRef size, IntArrayRef stride, std::optional<at::ScalarType> dtype,
                     std::optional<at::Layout>, std::optional<Device>, std::optional<bool>) {
  refuse_float64(c10::dtype_or_default(dtype));
  const c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_strided_generic(size, stride, &allocator, keys, c10::dtype_or_default(dtype));
}
Tensor copy_from(const Tensor& from, const Tensor& to, bool non_blocking) {
  if (to.is_cpu()) report("device to host", "aten::_copy_from");
  if (from.is_cpu() && !non_blocking) report("host to device", "aten::_copy_from");
  Aliases alias;
  alias.host(to).copy_(alias.host(from));
  return to;
}
Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) { return copy_from(from, to.resize_(from.sizes()), false); }
at::Scalar item(const Tensor& self) {
  report("device to host", "aten::_local_scalar_dense");
  Aliases alias;
  return at::_local_scalar_dense(alias.host(self));
}
const Tensor& resize_(const Tensor& self, IntArrayRef size, std::optional<at::MemoryFormat> format) {
  Aliases alias;
  alias.host(self).resize_(size, format);
  alias.write_back();
  return self;
}

using OptionalTensor = std::optional<Tensor>;
Tensor convolution(const Tensor& x, const Tensor& w, const OptionalTensor& b, IntArrayRef stride, IntArrayRef padding,
                   IntArrayRef dilation, bool transposed, IntArrayRef output_padding, int64_t groups) {
  TORCH_CHECK(is_here(x) && is_here(w), "Input type (", x.toString(), ") and weight type (", w.toString(),
              ") should be the same");
  Aliases alias;
  const auto bias = b ? OptionalTensor(alias.host(*b)) : b;
  return alias.device(at::convolution(alias.host(x), alias.host(w), bias, stride, padding, dilation, transposed,
                                      output_padding, groups));
}
std::tuple<Tensor, Tensor, Tensor> convolution_backward(
    const Tensor& grad, const Tensor& x, const Tensor& w, IntArrayRef stride, IntArrayRef padding,
    IntArrayRef dilation, bool transposed, IntArrayRef output_padding, int64_t groups, std::array<bool, 3> wanted) {
  Aliases alias;
  const std::vector<int64_t> bias{transposed ? w.size(1) * groups : w.size(0)};
  auto [of_x, of_w, of_b] =
      at::convolution_backward(alias.host(grad), alias.host(x), alias.host(w), bias, stride, padding, dilation,
                               transposed, output_padding, groups, wanted);
  return {alias.device(of_x), alias.device(of_w), alias.device(of_b)};
}

Tensor& set_strided(Tensor& self, c10::Storage from, int64_t offset, IntArrayRef size, IntArrayRef stride) {
  return at::cpu::set_(self, from, offset, size, stride);
}
Tensor& set_storage(Tensor& self, c10::Storage from) { return at::native::set_(self, from); }
Tensor& set_tensor(Tensor& self, const Tensor& from) { return at::native::set_tensor_(self, from); }
Tensor view(const Tensor& self, IntArrayRef size) { return at::native::view(self, size); }
Tensor as_strided(const Tensor& self, IntArrayRef size, IntArrayRef stride, std::optional<int64_t> offset) {
  return at::native::as_strided_tensorimpl(self, size, stride, offset);
}
Tensor reshape_alias(const Tensor& self, IntArrayRef size, IntArrayRef stride) {
  return at::native::_reshape_alias(self, size, stride);
}
bool keeps_parameters(const Tensor&, const Tensor&) { return true; }  // of modules that are moved, as CUDA does

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>()); }
TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("_local_scalar_dense", &item);
  m.impl("resize_", &resize_);
  m.impl("convolution_overrideable", &convolution);
  m.impl("convolution_backward_overrideable", &convolution_backward);
  m.impl("set_.source_Storage_storage_offset", &set_strided);
  m.impl("set_.source_Storage", &set_storage);
  m.impl("set_.source_Tensor", &set_tensor);
  m.impl("view", &view);
  m.impl("as_strided", &as_strided);
  m.impl("_reshape_alias", &reshape_alias);
  m.impl("_has_compatible_shallow_copy_type", &keeps_parameters);
}
// The gradient of an embedding may be sparse.
TORCH_LIBRARY_IMPL(_, SparsePrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_host>()); }
TORCH_LIBRARY_IMPL(aten, SparsePrivateUse1, m) {
  m.impl("_sparse_coo_tensor_with_dims_and_tensors", TORCH_FN(at::native::new_with_dims_and_tensor_sparse_symint));
}
// Autocast by the same lists as CUDA's.
TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }
TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
#define LOWER(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
  AT_FORALL_LOWER_PRECISION_FP(LOWER)
#define FULL(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
  AT_FORALL_FP32(FULL)
#define SET(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32_set_opt_dtype)
  AT_FORALL_FP32_SET_OPT_DTYPE(SET)
#define WIDEST(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, promote)
  AT_FORALL_PROMOTE(WIDEST)
}
}  // namespace

PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  at::RegisterPrivateUse1HooksInterface(new Hooks());
  m.def("default_generator", [] { return at::detail::getPrivateUse1Hooks().getDefaultGenerator(0); });
  m.def("allow_float64", [](bool allowed) { has_float64 = allowed; });
  m.def("watch", [](py::object each) {
    is_watched = !each.is_none();
    watcher = std::move(each);
  });
}
