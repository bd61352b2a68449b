package server

import "guestforge.dev/agent/internal/fields"

// served are the fields of requests that this agent knows, by the messages that they are in, each with the reason where it does
// nothing with it on purpose. What is in no table is refused. docs/agent.md has the same tables. Of specs, processes and
// resources package container has such a table.
var served = fields.Parse(`
CheckRequest.service                            one answer is for both services
CreateSandboxRequest.hostname
CreateSandboxRequest.dns
CreateSandboxRequest.sandbox_pidns
CreateSandboxRequest.sandbox_id                 an agent has one sandbox: the id is for its log
CreateSandboxRequest.guest_hook_path
Storage.driver
Storage.source
Storage.fstype
Storage.options
Storage.mount_point
Storage.shared
VolumeStatsRequest.volume_guest_path
ResizeVolumeRequest.volume_guest_path
ResizeVolumeRequest.size
CreateContainerRequest.container_id
CreateContainerRequest.exec_id
CreateContainerRequest.OCI
CreateContainerRequest.sandbox_pidns
StartContainerRequest.container_id
RemoveContainerRequest.container_id
RemoveContainerRequest.timeout
ExecProcessRequest.container_id
ExecProcessRequest.exec_id
ExecProcessRequest.process
SignalProcessRequest.container_id
SignalProcessRequest.exec_id
SignalProcessRequest.signal
WaitProcessRequest.container_id
WaitProcessRequest.exec_id
UpdateContainerRequest.container_id
UpdateContainerRequest.resources
PauseContainerRequest.container_id
ResumeContainerRequest.container_id
StatsContainerRequest.container_id
WriteStreamRequest.container_id
WriteStreamRequest.exec_id
WriteStreamRequest.data
ReadStreamRequest.container_id
ReadStreamRequest.exec_id
ReadStreamRequest.len
CloseStdinRequest.container_id
CloseStdinRequest.exec_id
TtyWinResizeRequest.container_id
TtyWinResizeRequest.exec_id
TtyWinResizeRequest.row
TtyWinResizeRequest.column
Interface.device                                the hardware address says which one is meant
Interface.name
Interface.IPAddresses
Interface.mtu
Interface.hwAddr
Interface.devicePath
Interface.type                                  it is the host's end that has one
Interface.raw_flags
IPAddress.family
IPAddress.address
IPAddress.mask
Route.dest
Route.gateway
Route.device
Route.source
Route.scope
Route.family
Route.flags
Route.mtu
ARPNeighbor.device
ARPNeighbor.lladdr
ARPNeighbor.state
ARPNeighbor.flags
GuestDetailsRequest.mem_block_size
GuestDetailsRequest.mem_hotplug_probe
CopyFileRequest.path
CopyFileRequest.file_size
CopyFileRequest.file_mode
CopyFileRequest.dir_mode
CopyFileRequest.uid
CopyFileRequest.gid
CopyFileRequest.offset
CopyFileRequest.data
OnlineCPUMemRequest.wait
OnlineCPUMemRequest.nb_cpus
OnlineCPUMemRequest.cpu_only
MemHotplugByProbeRequest.memHotplugProbeAddr
ReseedRandomDevRequest.data
SetGuestDateTimeRequest.Sec
SetGuestDateTimeRequest.Usec
AddSwapRequest.PCIPath
AddSwapPathRequest.path
`)

// unserved are those that are known and refused.
var unserved = fields.Parse(`
CreateSandboxRequest.kernel_modules  kernels have no modules
Storage.driver_options               they ask for encryption, or to write a new file system
Storage.fs_group                     a volume is given to a group by the option fsgid
CreateContainerRequest.string_user   a user has numbers here
CreateContainerRequest.devices       a container's devices are those of its spec
CreateContainerRequest.shared_mounts no container's mounts are another's
CreateContainerRequest.stdin_port    streams are read and written by calls
CreateContainerRequest.stdout_port   streams are read and written by calls
CreateContainerRequest.stderr_port   streams are read and written by calls
ExecProcessRequest.string_user       a user has numbers here
ExecProcessRequest.stdin_port        streams are read and written by calls
ExecProcessRequest.stdout_port       streams are read and written by calls
ExecProcessRequest.stderr_port       streams are read and written by calls
`)

var requests = fields.Table{Served: served, Refused: unserved, ByType: true}
