"""Patterns of kernel names, in order: the first that is found in a name tells what it does.

Groups `a` and `b` of a pattern are the formats of a GEMM's operands, as the library spells them;
`TYPES` reads them. What stands first beats what follows: attention runs in `cutlass::device_kernel`
too, and a kernel that writes the KV cache has `flash` in its name.

Names are foreign text: `(?>…)` and `{0,60}` keep one that was made for it from taking minutes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Role = Literal[
    "gemm", "attention", "quantize", "reduction", "elementwise", "copy", "communication", "other"
]
Precision = Literal["fp8", "bf16", "fp16", "fp32", "int8", "fp4", "unknown"]


@dataclass(frozen=True)
class Pattern:
    """`regex` is searched for without regard to case. `precision` None: of the groups `a` and `b`;
    of a quantizing kernel what it writes. `weight_only`: weights are made wide within the kernel.
    `example` was seen at `source`.
    """

    regex: str
    role: Role
    example: str
    source: str
    precision: Precision | None = None
    weight_only: bool = False


TYPES: Mapping[str, Precision] = {
    **dict.fromkeys(
        ("e4m3", "e5m2", "f8", "fp8", "float_e4m3_t", "float_e5m2_t", "__nv_fp8_e4m3",
         "float8_e4m3fn", "ue8m0xe4m3", "ue8m0xf8", "q"), "fp8"),
    **dict.fromkeys(
        ("bf16", "bfloat16", "bfloat16_t", "__nv_bfloat16", "c10::bfloat16", "t"), "bf16"),
    **dict.fromkeys(("f16", "fp16", "half", "half_t", "__half", "c10::half", "h"), "fp16"),
    **dict.fromkeys(("f32", "tf32", "fp32", "float", "simt_sgemm", "sgemm", "s"), "fp32"),
    **dict.fromkeys(("s8", "u8", "i8", "int8", "int8_t"), "int8"),
    **dict.fromkeys(
        ("e2m1", "mxe2m1", "fp4", "f4", "float_e2m1_t", "ue4m3xf4", "ue4m3xe2m1", "o"), "fp4"),
}  # fmt: skip
"""Formats by the word a library has for them, in lower case."""

_VLLM_332 = "https://github.com/neuralmagic/nm-vllm/pull/332"
_VLLM_23280 = "https://github.com/vllm-project/vllm/pull/23280"
_VLLM_9471 = "https://github.com/vllm-project/vllm/issues/9471"
_SGLANG_22353 = "https://github.com/sgl-project/sglang/pull/22353"
_TE_1391 = "https://github.com/NVIDIA/TransformerEngine/issues/1391"
_DCGM_251 = "https://github.com/NVIDIA/DCGM/issues/251"
_H100_VLLM = "nsys table of vLLM in BF16 on an H100, in a public repository"
_B200_SGLANG = "torch.profiler tables of SGLang on a B200, in public repositories"
_H200_SGLANG = "torch.profiler tables of SGLang on an H200, in public repositories"
_TABLES = "a published table of kernels, in a public repository"
_SOURCE = "the kernel's own source"

_ELEMENT = (  # a CUTLASS or CUDA type, demangled or within a mangled name
    r"(?P<a>float_e4m3_t|float_e5m2_t|__nv_fp8_e4m3|float_e2m1_t|__nv_bfloat16|bfloat16_t|half_t"
    r"|__half|int8_t|float(?![\w]))"
)
_WORD = r"(?P<a>e4m3|e5m2|bf16|f16|f8|f32|tf32|s8|u8|i8)"

PATTERNS: tuple[Pattern, ...] = (
    # between GPUs
    Pattern(
        r"nccl|all_?reduce|all_?gather|reduce_?scatter|cross_device_reduce|deep_ep|nvshmem",
        "communication", "ncclDevKernel_AllReduce_Sum_bf16_RING_LL", _TABLES, "unknown",
    ),
    # Inductor names a kernel after all operators around it, those that multiply among them
    Pattern(r"triton_poi_fused", "elementwise", "triton_poi_fused_mul_sum_0", _TABLES, "unknown"),
    Pattern(r"triton_(?:red|per)_fused", "reduction", "triton_per_fused_copy__m", _TABLES,
            "unknown"),
    # around attention: none of these multiplies
    Pattern(
        r"reshape_and_cache|concat_and_cache|cache_kernel|gather_and_maybe_dequant",
        "copy", "void vllm::reshape_and_cache_flash_kernel<__nv_bfloat16, __nv_bfloat16>",
        "a self-test with the names of vLLM 0.28, in a public repository", "unknown",
    ),
    Pattern(
        r"rotary|(?<!p)rope", "elementwise",
        "void vllm::rotary_embedding_kernel<c10::BFloat16, true>(long const*, c10::BFloat16*)",
        _VLLM_332, "unknown",
    ),
    # attention; libraries that name the format of Q, K and V
    Pattern(
        r"(?:fmha|attention)\w{0,60}?Qkv(?P<a>E4m3|Bfloat16|Fp16)", "attention",
        "fmhaSm100fKernel_QkvE4m3OBfloat16HQk576HV512PagedKvDenseStaticTokenSparseP1VarSeqQ8Kv128"
        "PersistentSwapsAbForGen", _B200_SGLANG,
    ),
    Pattern(
        r"fmha_v2_flash_attention_(?P<a>e4m3|bf16|fp16)", "attention",
        "fmha_v2_flash_attention_fp16_64_32_S_qkv_128_causal_sm86_kernel_nl", _TABLES,
    ),
    Pattern(
        rf"^(?>.*?flash(?!infer))(?>.*?fwd).*?{_ELEMENT}", "attention",
        "void flash::flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<128, 64, 128, 4, false, "
        "false, cutlass::bfloat16_t, Flash_kernel_traits<128, 64, 128, 4, cutlass::bfloat16_t> >, "
        "true, false, false>(flash::Flash_fwd_params)", _TABLES,
    ),
    Pattern(
        r"fmha_cutlassF_(?P<a>bf16|f16|f32)", "attention",
        "fmha_cutlassF_bf16_aligned_64x128_rf_sm80(PyTorchMemEffAttention::AttentionKernel)",
        _TABLES,
    ),
    Pattern(
        r"flash(?!infer)|fmha|attention|attn|sdpa|mha|mqa|mla_|BatchPrefillWith|BatchDecodeWith|xqa",
        "attention",
        "cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7_64x128x128",
        _TABLES, "unknown",
    ),
    # activations and weights into a format
    Pattern(
        r"(?:fp8|e4m3)\w{0,60}quant(?!\w{0,60}gemm)|quant\w{0,60}(?:fp8|e4m3)(?!\w{0,60}(?:gemm|matmul))"
        r"|quant\w{0,60}<[^(]{0,400}(?:float8_e4m3fn|__nv_fp8|float_e4m3)|FP8Quantize|cast_transpose",
        "quantize",
        "void vllm::scaled_fp8_quant_kernel<c10::BFloat16>(c10::Float8_e4m3fn*, c10::BFloat16 "
        "const*)", _VLLM_332, "fp8",
    ),
    Pattern(
        r"(?:fp4|e2m1)\w{0,60}quant(?!\w{0,60}gemm)|quant\w{0,60}(?:fp4|e2m1)(?!\w{0,60}gemm)"
        r"|cvt_fp16_to_fp4",
        "quantize", "void tensorrt_llm::kernels::cvt_fp16_to_fp4<__nv_bfloat16>", _SOURCE, "fp4",
    ),
    Pattern(
        r"(?<!de)quant(?!\w{0,60}(?:gemm|matmul))\w{0,60}(?:_kernel|block_size|_row)|act_quant",
        "quantize", "per_token_group_quant_8bit_kernel",
        "https://github.com/sgl-project/sglang/pull/3490", "unknown",
    ),
    # the second halves of split GEMMs
    Pattern(
        r"split_?K_?reduce|splitk.*reduce|reduce_partials|reduce_segments", "reduction",
        "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16, float, "
        "__nv_bfloat16, false, float, __nv_bfloat16, __nv_bfloat16, true, false, false, false>",
        _H200_SGLANG, "unknown",
    ),
    # GEMMs that widen their weights
    Pattern(
        r"marlin_repack|awq_.*repack", "copy", "void marlin::gptq_marlin_repack_kernel", _TABLES,
        "unknown",
    ),
    Pattern(
        rf"marlin\w*::Marlin<{_ELEMENT}", "gemm",
        "void marlin::Marlin<__half, 1125899906843648l, 256, 1, 16, 4, 4, false, true, -1>",
        _SOURCE, None, weight_only=True,
    ),
    Pattern(
        r"marlin\w*::Marlin<(?:\(long\))?(?P<vllm>\d+)", "gemm",
        "void marlin::Marlin<(long)1125899906910725, (long)1125899906843648, "
        "(long)1125899906910725, (long)1125899906910725>", _TABLES, None, weight_only=True,
    ),
    Pattern(
        r"marlin|machete|MixedInput|fpA_?intB|FpAIntB|weight_only|gptq_awq|gptq_gemm|awq_gemm"
        r"|gemm_half_q_half|gemm_4bit|w[48]a16|GemmQuantNv.*int4",
        "gemm", "fused_moe_kernel_gptq_awq", "vLLM's fused_moe.py", "unknown", weight_only=True,
    ),
    # cuBLAS: nvjet names A, B, the output and the accumulator, or one letter for A and B
    Pattern(
        r"nvjet_(?:sm\d+_)?(?P<a>[a-z])(?P<b>[a-z])[a-z]{3}(?![a-z])", "gemm",
        "nvjet_qqtst_128x256_128x6_2x1_2cta_v_bz_TNT",
        f"an nsys table of a cuBLAS FP8 sample, in a public repository; types in {_DCGM_251}",
    ),
    Pattern(
        r"nvjet_(?:sm\d+_)?(?P<a>[a-z])[a-z]{2}(?![a-z])", "gemm",
        "nvjet_sm90_tst_192x192_64x3_2x1_v_bz_coopB_NTN", _TABLES,
    ),
    Pattern(
        r"xmma_\w*gemm_(?:f32f32_(?P<b>tf32)f32|" + _WORD + r"\w*?_)", "gemm",
        "sm90_xmma_gemm_e4m3bf16_e4m3f32_f32_tn_n_tilesize128x128x128_warpgroupsize1x1x1_execute_"
        "segment_k_off_kernel__5x_cublas", _TE_1391,
    ),
    Pattern(
        r"cutlass3x_sm\d+_\w*?gemm_(?:block_scaled_)?(?P<a>ue4m3xf4|ue4m3xe2m1|ue8m0xe4m3|ue8m0xf8"
        r"|e4m3|e5m2|bf16|f16|f8|f32|s8|u8)_", "gemm",
        "cutlass3x_sm90_tensorop_gemm_bf16_bf16_f32_bf16_bf16_128x128x64_2x1x1_0_tnt_align8"
        "_warpspecialized_cooperative_epi_tma", _TABLES,
    ),
    Pattern(
        r"(?:cutlass_\d\d|ampere|turing|volta|hopper)_\w{0,60}?(?P<a>bf16|fp16|f16|int8|s8|sgemm)",
        "gemm",
        "void cutlass::Kernel2<cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_64x64_64x6_tn_align8>"
        "(cutlass_80_tensorop_bf16_s16816gemm_relu_bf16_64x64_64x6_tn_align8::Params)", _TABLES,
    ),
    Pattern(r"(?:cutlass_\d\d|ampere)_\w{0,60}?(?:tensorop_s1688gemm|tf32)", "gemm",
            "void cutlass::Kernel2<cutlass_80_tensorop_s1688gemm_256x128_16x3_nn_align4>"
            "(cutlass_80_tensorop_s1688gemm_256x128_16x3_nn_align4::Params)", _TABLES, "fp32"),
    Pattern(r"(?:ampere|turing|volta|hopper)_h\d*gemm", "gemm", "ampere_h16816gemm_128x128_ldg8_nn",
            "cuBLAS's naming of FP16 with FP16 sums", "fp16"),
    # TensorRT-LLM's generated GEMMs: output, A and B, accumulator
    Pattern(
        r"\b(?:bmm|gemm)_[A-Za-z0-9]+_(?P<a>E4m3|E2m1|MxE2m1|Bfloat16|Fp16)"
        r"(?P<b>E4m3|E2m1|MxE2m1|Bfloat16|Fp16)_Fp32", "gemm",
        "bmm_E4m3_E4m3E4m3_Fp32_t128x64x128u2_s6_et64x64_m64x64x32_c1x1x1_rM_TN_transOut_noShfl_"
        "dsFp8_schPd4x2x2x3_bN_tma_tmaSf_rgTma_clmp_lbW4_dynB_sm100f", _B200_SGLANG,
    ),
    Pattern(
        r"deep_gemm::(?:sm\d+_)?transpose", "copy",
        "void deep_gemm::transpose_fp32<512, 64>(const float *, float *)", _TABLES, "unknown",
    ),
    Pattern(
        r"deep_?gemm::\w*?(?P<a>fp8|bf16|tf32)\w*gemm", "gemm",
        "void deep_gemm::sm90_fp8_gemm_1d2d_impl<0u, 2112u, 7168u, 1u>",
        "https://github.com/SemiAnalysisAI/InferenceX/issues/1004",
    ),
    # CUTLASS templates: the instruction, else the first element type, which is A's
    Pattern(
        r"(?:MMA|SM\d+)_\d+x\d+x\d+_(?:F32|F16|S32)(?P<a>E4M3|E5M2|BF16|F16|TF32|S8)"
        r"(?P<b>E4M3|E5M2|BF16|F16|TF32|S8)", "gemm",
        "void cutlass::device_kernel<cutlass::gemm::kernel::GemmUniversal<MMA_Atom<cute::SM90::GMMA"
        "::MMA_64x128x32_F32E4M3E4M3_SS_TN<>>, cutlass::bfloat16_t>>",
        "CUTLASS's mma_sm90_gmma.hpp",
    ),
    Pattern(
        r"cutlass_3x_gemm_fp8|cutlass\w*fp8_\w*gemm|device_kernel.*DeviceGemmFp8", "gemm",
        "void cutlass::device_kernel<vllm::cutlass_3x_gemm_fp8_blockwise<cutlass::bfloat16_t>>",
        _VLLM_23280, "fp8",
    ),
    Pattern(
        r"DeviceGemmFp4|GemmQuantNv", "gemm",
        "void cutlass::device_kernel<flashinfer::gemm::DeviceGemmFp4GemmSm100<>>", _TABLES, "fp4",
    ),
    Pattern(
        rf"^(?=.*cutlass)(?>.*?gemm).*?{_ELEMENT}", "gemm",
        "_ZN7cutlass13device_kernelIN4vllm19enable_sm90_or_laterINS_4gemm6kernel13GemmUniversalIN4"
        "cute5tupleIJiiiiEEENS5_10collective13CollectiveMmaINS_12float_e4m3_tE", _SOURCE,
    ),
    # vectors
    Pattern(
        r"(?:gemvx::kernel|gemv\w{0,30}kernel\w{0,30}|gemm(?:SN|k1)\w{0,30}kernel\w{0,30}|cudaCoreGemm|dot_kernel)<"
        r"[^>]{0,400}?" + _ELEMENT, "gemm",
        "std::enable_if<!(false), void>::type internal::gemvx::kernel<int, int, __nv_bfloat16, "
        "__nv_bfloat16, __nv_bfloat16, float, false, true, true, false, 7>", _TABLES,
    ),
    # Triton: a name says FP8, or nothing
    Pattern(
        r"block_fp8_matmul|fp8_(?:gemm|matmul)|matmul_fp8", "gemm", "_w8a8_block_fp8_matmul",
        _VLLM_23280, "fp8",
    ),
    Pattern(
        r"fused_moe_kernel|triton_tem_fused|triton_mm|scaled_mm|matmul|gemm|gemv|device_kernel<"
        r"|^aten::(?:mm|addmm|bmm|baddbmm|addmv|mv|linear|_grouped_mm|_int_mm|einsum)",
        "gemm", "fused_moe_kernel", _B200_SGLANG, "unknown",
    ),
    # the rest
    Pattern(
        r"Memcpy|Memset|CatArrayBatchedCopy|direct_copy_kernel|index_?Select|gather|transpose"
        r"|copy_kernel|scatter|embedding",
        "copy", "Memcpy DtoD (Device -> Device)", _VLLM_332, "unknown",
    ),
    Pattern(
        r"reduce_kernel|softmax|topk|arg_?max|moe_sum|Reduce", "reduction",
        "void at::native::reduce_kernel<128, 4, at::native::R...",
        "https://github.com/vllm-project/vllm-omni/pull/553", "unknown",
    ),
    Pattern(
        r"elementwise|act_and_mul|silu|gelu|norm|sigmoid|add_kernel|activation",
        "elementwise",
        "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<int>>",
        _VLLM_332, "unknown",
    ),
)  # fmt: skip
