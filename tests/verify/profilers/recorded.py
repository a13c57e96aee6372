# ruff: noqa: E101, E501
"""What the tools print, for the fakes that stand in for them.

Recorded: Nsight Systems 2023.4.4.54 and Nsight Compute 2024.1.1 (Debian's packages, on a machine
without a GPU); refusals on GPUs as users pasted them in public reports. Excerpts of the help texts
keep their layout. CONSTRUCTED: what is marked so, after NVIDIA's documentation.
"""

NSYS_VERSION = "NVIDIA Nsight Systems version 2023.4.4.54-234433681190v0\n"
NSYS_HELP = """
usage: nsys profile [<args>] [application] [<application args>]

	-c, --capture-range=

	   Possible values are none, cudaProfilerApi, nvtx, hotkey.
	   When '-c cudaProfilerApi' is used, profiling will start only when cudaProfilerStart API is
	   invoked in the application.

	--capture-range-end=

	   Possible values are 'none', 'stop', 'stop-shutdown', 'repeat[:N]' or 'repeat-shutdown:N'.
	   Applicable only when used along
	   with --capture-range option.

	--cuda-graph-trace=<granularity>[:<launch origin>]

	   Set the granularity and launch origin for CUDA graph trace.

	(Deprecated) --event-sampling-frequency=

	   WARNING: This switch is no longer supported.

	--gpu-metrics-device=

	   Collect GPU Metrics from specified devices.
	   The option argument must be 'none' or one of GPU IDs reported
	   by '--gpu-metrics-device=help' switch.
	   Default is 'none'. System scope.

	--stats=

	   Possible values are 'true' or 'false'.

	--trace-fork-before-exec=

	   If true, trace any child process after fork and before they call one of the exec functions.
"""
NSYS_HELP_2024 = NSYS_HELP.replace("metrics-device", "metrics-devices").replace(
    "'none' or one of", "'none', 'cuda-visible', 'all' or a list of"
)
"""CONSTRUCTED: the spelling and the value since 2024.2."""
NSYS_HELP_OLD = NSYS_HELP.replace("--capture-range-end", "--stop-on-range-end")
"""CONSTRUCTED: the option's name before it was renamed."""
NSYS_NO_GPU = """Possible --gpu-metrics-device values are:
	NVIDIA GPUs not found, feature is not available
"""
NSYS_GPUS = """Possible --gpu-metrics-device values are:
	0: NVIDIA GeForce GTX 960 (not supported)
	1: NVIDIA GeForce RTX 3080
	none: Disable GPU Metrics [Default]
"""
"""As a public project's test of the same probing has it."""
NSYS_NO_PERMISSION = """Possible --gpu-metrics-device values are:
	0: NVIDIA H200 Insufficient privilege, see https://developer.nvidia.com/ERR_NVGPUCTRPERM
"""
"""CONSTRUCTED: the layout; the words are nsys's."""
NSYS_TAKEN = """Possible --gpu-metrics-device values are:
	0: NVIDIA L40S Already under profiling
"""
"""CONSTRUCTED: the layout; the words were pasted from a machine that runs DCGM."""
NSYS_EMPTY = "Generated:\n"
"""All it prints where nothing called cudaProfilerStart."""
NSYS_NO_IMPORTER = """Importer error status: The importer binary and its dependencies were not found.
Unable to retrieve the importer version: skipping importation of the QDSTRM file.
Generating '/tmp/nsys-report-cb59.qdstrm'
Generated:
    /tmp/c.qdstrm
"""
NSYS_ILLEGAL = """Illegal --gpu-metrics-device arguments.
None of the installed GPUs are supported. See the user guide: https://docs.nvidia.com/nsight-systems

usage: nsys profile [<args>] [application] [<application args>]
Try 'nsys profile --help' for more information.
"""
NSYS_UNKNOWN = """unrecognised option '--gpu-metrics-devices=all'

usage: nsys profile [<args>] [application] [<application args>]
Try 'nsys profile --help' for more information.
"""
NSYS_TRUNCATED = (  # of the first 100 bytes, and of the first 3000
    "Exportation error: Cannot read from stream.",
    "Exportation error: Section Table Reference magic number mismatch.",
)

NCU_VERSION = """NVIDIA (R) Nsight Compute Command Line Profiler
Copyright (c) 2018-2024 NVIDIA Corporation
Version 2024.1.1.0 (build 33998838) (public-release)
"""
NCU_HELP = """usage: ncu [options] [program] [program-arguments]

General Options:
  -h [ --help ]                         Print this help message.
  --target-processes arg (=all)         Select the processes you want to profile:
  --kernel-name-base arg (=function)    Set the basis for --kernel-name, --kernel-id and kernel-name:
  -k [ --kernel-name ] arg              Filter the kernel in one of the following ways:
  --profile-from-start arg (=1)         Set if application should be profiled from its start. Allowed values:
  --log-file arg                        Send all tool output to the specified file, or
"""
NCU_METRICS = """Device NVIDIA H200 (GH100)
------------------------------------------- --------------- --------------- -----------------------
Metric Name                                 Metric Type     Metric Unit     Metric Description
------------------------------------------- --------------- --------------- -----------------------
dram__bytes_read                            Counter         byte            # of bytes read from DRAM
gpu__time_duration                          Counter         nsecond         incremental duration in
                                                                            nanoseconds
sm__cycles_active                           Counter         cycle           # of cycles with at least
                                                                            one warp in flight
sm__ops_path_tensor_src_bf16_dst_fp32       Counter                         # of math ops executed
sm__ops_path_tensor_src_fp8                 Counter                         # of math ops executed in
"""
"""The device's line is CONSTRUCTED; the names are GH100's."""
NCU_NO_DRIVER = "==ERROR== Driver could not be loaded.\n"
NCU_NO_PERMISSION = (
    "==PROF== Connected to process 2213 (/usr/bin/python3.12)\n"
    "==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access NVIDIA GPU "
    "Performance Counters on the target device 0. For instructions on enabling permissions and to "
    "get more information see https://developer.nvidia.com/ERR_NVGPUCTRPERM\n"
    "==PROF== Disconnected from process 2213\n==WARNING== No kernels were profiled.\n"
)
NCU_TAKEN = """==ERROR== An error was reported by the driver:
==ERROR== Profiling failed because a driver resource was unavailable. Ensure that no other tool (like DCGM) is concurrently collecting profiling data. See https://docs.nvidia.com/nsight-compute/ProfilingGuide/index.html#faq for more details.
==ERROR== Failed to profile "nvjet_qqtst_128x256_128x6_2x1_v_bz_TNT" in process 7508
==PROF== Trying to shutdown target application
==WARNING== No kernels were profiled.
"""
NCU_LOCKED = (
    "==ERROR== Failed to open/create lock file /tmp/nsight-compute-lock. Please check that this "
    "process has write permissions on this file.\n==WARNING== No kernels were profiled.\n"
)
NCU_SANDBOX = (
    "==ERROR== Failed to initialize the profiler: LibraryNotLoaded\n"
    "==WARNING== No kernels were profiled.\n"
)
"""The words are ncu's, seen under gVisor; the layout is CONSTRUCTED."""
NCU_NOTHING = "==WARNING== No kernels were profiled.\n"
NCU_OTHERS = """==PROF== Connected to process 664418 (/home/me/wmma_ptx)
==PROF== Disconnected from process 664418
==WARNING== No kernels were profiled.
Available Kernels:
1. wmma_cxx_kernel
2. wmma_inline_ptx_stub
"""
NCU_NO_CUDA = """==ERROR== Target application terminated before first instrumented API call.
==WARNING== No kernels were profiled.
"""
NCU_CHILD_FAILED = """==ERROR== The application returned an error code (3).
==WARNING== No kernels were profiled.
"""
NCU_BAD_REPORT = "==ERROR== Failed to load report file 'bad.ncu-rep'.\n"
NCU_CSV = """==PROF== Report read
"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","Device","CC","sm__cycles_active.avg.pct_of_peak_sustained_elapsed","sm__ops_path_tensor_src_fp8.sum"
"","","","","","","","","","","","%",""
"0","2213","python3.12","127.0.0.1","nvjet_qqtst_128x256_128x6_2x1_v_bz_TNT","1","7","(384, 1, 1)","(132, 1, 1)","0","9.0","91.2","274877906944"
"""
"""CONSTRUCTED: the layout of the raw page."""
