{{/*
What the values say together and can't mean, each with what to set instead. All of it is told at once, as the agent does
with its configuration file; what is wrong with a single value values.schema.json has told before.
*/}}
{{- define "jetsync.problems" -}}
{{- $problems := concat
    (include "jetsync.problemsOfSource" . | fromYamlArray)
    (include "jetsync.problemsOfLogin" . | fromYamlArray)
    (include "jetsync.problemsOfVolumes" . | fromYamlArray)
    (include "jetsync.problemsOfMany" . | fromYamlArray)
    (include "jetsync.problemsOfRest" . | fromYamlArray) -}}
{{- with $problems -}}
{{- fail (printf "\n\nThese values don't go together:\n\n- %s\n" (join "\n- " .)) -}}
{{- end -}}
{{- end -}}

{{/* Where the configuration comes from, and what it listens on. */}}
{{- define "jetsync.problemsOfSource" -}}
{{- $problems := list -}}
{{- $existing := .Values.existingConfig -}}
{{- if and $existing.configMap $existing.secret -}}
{{- $problems = append $problems "existingConfig names both configMap and secret: leave one of them empty" -}}
{{- end -}}
{{- if include "jetsync.existing" . -}}
{{- $given := list -}}
{{- range list "buckets" "mappings" "publications" "subscriptions" "nats" -}}
{{- if get $.Values.config . }}{{ $given = append $given (printf "config.%s" .) }}{{ end -}}
{{- end -}}
{{- range list "url" "user" -}}
{{- if get $.Values.nats . }}{{ $given = append $given (printf "nats.%s" .) }}{{ end -}}
{{- end -}}
{{- with $given -}}
{{- $problems = append $problems (printf "existingConfig is in force, so that %s would have no effect: put it into that file, or empty existingConfig" (join ", " .)) -}}
{{- end -}}
{{- if eq .Values.reload "rollout" -}}
{{- $problems = append $problems "reload: rollout can't see what stands in existingConfig: set reload to watch, or set a checksum of your own in podAnnotations" -}}
{{- end -}}
{{- else -}}
{{- if not (kindIs "map" .Values.config.http) -}}
{{- $problems = append $problems "config.http: false leaves nothing for the probes to ask: leave it out" -}}
{{- else -}}
{{- $listen := .Values.config.http.listen | default "127.0.0.1:9477" -}}
{{- $port := regexFind "[0-9]+$" $listen | default "9477" -}}
{{- if contains "${" $listen -}}
{{- $problems = append $problems (printf "config.http.listen is %s, and the chart needs the port for the probes: set it to 0.0.0.0:9477" $listen) -}}
{{- else if regexMatch "^(127\\.|localhost:|\\[::1\\])" $listen -}}
{{- $problems = append $problems (printf "config.http.listen is %s, where the kubelet's probes can't reach it: set it to 0.0.0.0:%s" $listen $port) -}}
{{- else if eq $port "0" -}}
{{- $problems = append $problems "config.http.listen has port 0, and the chart needs the port for the probes: set it to 0.0.0.0:9477" -}}
{{- end -}}
{{- end -}}
{{- if not (hasPrefix "/" (include "jetsync.stateDir" .)) -}}
{{- $problems = append $problems (printf "config.state_dir is %s, below the ConfigMap, which can't be written: set it to an absolute path such as /var/lib/jetsync" .Values.config.state_dir) -}}
{{- end -}}
{{- if not (include "jetsync.entries" . | fromYamlArray | concat (.Values.config.publications | default list)) -}}
{{- $problems = append $problems "there is nothing to do: set config.mappings, config.publications or config.subscriptions (or existingConfig.configMap)" -}}
{{- end -}}
{{- end -}}
{{- toYaml $problems -}}
{{- end -}}

{{/* Servers, logins, TLS. */}}
{{- define "jetsync.problemsOfLogin" -}}
{{- $problems := list -}}
{{- $nats := kindIs "map" .Values.config.nats | ternary .Values.config.nats dict -}}
{{- if not (include "jetsync.existing" .) -}}
{{- if and .Values.nats.url $nats.servers -}}
{{- $problems = append $problems "nats.url and config.nats.servers both name the servers: empty one of them" -}}
{{- end -}}
{{- if and .Values.nats.url $nats.embedded -}}
{{- $problems = append $problems "nats.url and config.nats.embedded are two ways to have a server: empty one of them" -}}
{{- end -}}
{{- if not (or .Values.nats.url $nats.servers $nats.embedded) -}}
{{- $problems = append $problems "no server is named: set nats.url, for example to nats://nats.nats.svc:4222" -}}
{{- end -}}
{{- $bad := list -}}
{{- range include "jetsync.servers" . | fromYamlArray -}}
{{- if not (or (regexMatch "^(nats|tls|wss?)://" .) (contains "${" .)) }}{{ $bad = append $bad . }}{{ end -}}
{{- end -}}
{{- $servers := include "jetsync.servers" . -}}
{{- if and (regexMatch "wss?://" $servers) (regexMatch "(nats|tls)://" $servers) -}}
{{- $problems = append $problems "WebSocket addresses (ws://, wss://) and others can't stand together: leave one kind in nats.url" -}}
{{- end -}}
{{- if regexMatch "://[^/@${]+@" $servers -}}
{{- $problems = append $problems "the address of a server has a login in it, which everybody sees who may read ConfigMaps: set nats.user and nats.password.secret, or nats.token.secret" -}}
{{- end -}}
{{- with $bad -}}
{{- $problems = append $problems (printf "%s isn't the address of a server: write nats://HOST:4222 (or tls://, ws://, wss://)" (join ", " .)) -}}
{{- end -}}
{{- end -}}
{{- $logins := list -}}
{{- range $login := list "credentials" "nkey" "password" "token" -}}
{{- $secret := (get $.Values.nats $login).secret -}}
{{- if $secret.name -}}
{{- $logins = append $logins (printf "nats.%s.secret.name" $login) -}}
{{- if not $secret.key -}}
{{- $problems = append $problems (printf "nats.%s.secret.key is empty: set it to the key in the Secret %s" $login $secret.name) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range list "credentials_file" "nkey_seed_file" "password_file" "token_file" -}}
{{- if get $nats . }}{{ $logins = append $logins (printf "config.nats.%s" .) }}{{ end -}}
{{- end -}}
{{- if gt (len $logins) 1 -}}
{{- $problems = append $problems (printf "%s are several ways to log in: leave one" (join ", " $logins)) -}}
{{- end -}}
{{- $user := or .Values.nats.user $nats.user -}}
{{- if and .Values.nats.password.secret.name (not $user) (not (include "jetsync.existing" .)) -}}
{{- $problems = append $problems "nats.password is given without nats.user: set nats.user" -}}
{{- end -}}
{{- if and .Values.nats.user (not (or .Values.nats.password.secret.name $nats.password_file)) -}}
{{- $problems = append $problems "nats.user is given without a password: set nats.password.secret.name" -}}
{{- end -}}
{{- with .Values.tls -}}
{{- if and .enabled (not (or .secretName .caConfigMap.name)) -}}
{{- $problems = append $problems "tls.enabled is true without certificates: set tls.secretName or tls.caConfigMap.name, or leave tls.enabled false and write tls:// in nats.url" -}}
{{- end -}}
{{- if and (not .enabled) (or .secretName .caConfigMap.name) -}}
{{- $problems = append $problems "tls.secretName or tls.caConfigMap.name is given while tls.enabled is false: set tls.enabled to true" -}}
{{- end -}}
{{- if ne (empty .keys.cert) (empty .keys.key) -}}
{{- $problems = append $problems "tls.keys.cert and tls.keys.key belong together: set both, or empty both" -}}
{{- end -}}
{{- end -}}
{{- toYaml $problems -}}
{{- end -}}

{{/* Every directory lies on a volume that is there and may be written where that is needed. */}}
{{- define "jetsync.problemsOfVolumes" -}}
{{- $problems := list -}}
{{- $sources := include "jetsync.volumeSources" . | fromYamlArray | join ", " -}}
{{- $mounts := list -}}
{{- $paths := dict -}}
{{- range $volume := include "jetsync.volumes" . | fromYamlArray -}}
{{- $mounts = append $mounts (dict "path" $volume.mountPath "key" $volume.key "readOnly" $volume.readOnly) -}}
{{- if not $volume.sources -}}
{{- $problems = append $problems (printf "%s doesn't say what it is: set one of %s" $volume.key $sources) -}}
{{- else if gt (len $volume.sources) 1 -}}
{{- $problems = append $problems (printf "%s is several things at once (%s): leave one" $volume.key (join ", " $volume.sources)) -}}
{{- end -}}
{{- if and (not $volume.mountPath) (include "jetsync.existing" $) -}}
{{- $problems = append $problems (printf "%s.mountPath is missing, and the chart can't see the directories in existingConfig: set it" $volume.key) -}}
{{- else if not $volume.mountPath -}}
{{- $problems = append $problems (printf "%s is the name of no mapping, publication or subscription of config: correct it, or set %s.mountPath" $volume.key $volume.key) -}}
{{- else if not (hasPrefix "/" $volume.mountPath) -}}
{{- /* Of a directory or of state_dir, it is told there. */ -}}
{{- if $volume.value.mountPath -}}
{{- $problems = append $problems (printf "%s.mountPath is %s: set it to an absolute path" $volume.key $volume.mountPath) -}}
{{- end -}}
{{- else if contains "${" $volume.mountPath -}}
{{- $problems = append $problems (printf "%s would be mounted at %s, which only the agent can expand: set %s.mountPath to a directory above it" $volume.key $volume.mountPath $volume.key) -}}
{{- else if hasKey $paths $volume.mountPath -}}
{{- $problems = append $problems (printf "%s and %s would both be mounted at %s: one volume is enough for what lies on it" (get $paths $volume.mountPath) $volume.key $volume.mountPath) -}}
{{- end -}}
{{- $_ := set $paths ($volume.mountPath | default "") $volume.key -}}
{{- if and (has "persistentVolumeClaim" $volume.sources) (not (($volume.value.persistentVolumeClaim | default dict).size)) -}}
{{- $problems = append $problems (printf "%s.persistentVolumeClaim.size is missing: set it, for example to 10Gi" $volume.key) -}}
{{- end -}}
{{- if and (has "hostPath" $volume.sources) (not (($volume.value.hostPath | default dict).path)) -}}
{{- $problems = append $problems (printf "%s.hostPath.path is missing: set it to a directory of the node" $volume.key) -}}
{{- end -}}
{{- end -}}
{{- range .Values.extraVolumeMounts -}}
{{- $mounts = append $mounts (dict "path" .mountPath "key" (printf "extraVolumeMounts %s" .name) "readOnly" (.readOnly | default false)) -}}
{{- end -}}
{{- range $entry := include "jetsync.entries" . | fromYamlArray -}}
{{- $over := dict "path" "" -}}
{{- range $mounts -}}
{{- if and .path (or (eq $entry.directory .path) (hasPrefix (printf "%s/" (trimSuffix "/" .path)) $entry.directory)) -}}
{{- if gt (len .path) (len $over.path) }}{{ $over = . }}{{ end -}}
{{- end -}}
{{- end -}}
{{- if hasPrefix "${" $entry.directory -}}
{{- else if not (hasPrefix "/" $entry.directory) -}}
{{- $problems = append $problems (printf "%s.directory is %s, below the ConfigMap, which can't be written: set it to an absolute path, such as /data/%s" $entry.where $entry.directory $entry.name) -}}
{{- else if not $over.path -}}
{{- $problems = append $problems (printf "%s.directory is %s, which is on no volume: set volumes.%s, for example to {persistentVolumeClaim: {size: 10Gi}}" $entry.where $entry.directory $entry.name) -}}
{{- else if and $over.readOnly (not (hasPrefix "push-" $entry.mode)) -}}
{{- $problems = append $problems (printf "%s.readOnly is true, and %s writes to %s: set readOnly to false, or its mode to push-safe or push-mirror" $over.key $entry.where $entry.directory) -}}
{{- end -}}
{{- end -}}
{{- range include "jetsync.newDirectories" . | fromYamlArray -}}
{{- if regexMatch "\\$\\{[^}]*:-" .directory -}}
{{- $problems = append $problems (printf "%s.directory is %s, which has to be made below a new volume, and Kubernetes knows no defaults of variables: write ${NAME} without :-, or set makeDirectories to false" .where .directory) -}}
{{- end -}}
{{- end -}}
{{- toYaml $problems -}}
{{- end -}}

{{/* One directory has one agent, and one place in a bucket one mirror. */}}
{{- define "jetsync.problemsOfMany" -}}
{{- $problems := list -}}
{{- $values := .Values -}}
{{- $many := or (eq $values.kind "DaemonSet") (and (eq $values.kind "StatefulSet") (gt (int $values.replicas) 1)) -}}
{{- $variable := eq $values.kind "DaemonSet" | ternary "${NODE_NAME}" "${POD_NAME}" -}}
{{- if and (eq $values.kind "Deployment") (gt (int $values.replicas) 1) -}}
{{- $problems = append $problems (printf "replicas is %d with kind Deployment, and two agents must not work on one directory: set replicas to 1, or kind to StatefulSet, whose replicas have volumes of their own" (int $values.replicas)) -}}
{{- end -}}
{{- if and (eq $values.kind "DaemonSet") ($values.updateStrategy.rollingUpdate | default dict).maxSurge -}}
{{- $problems = append $problems "updateStrategy.rollingUpdate.maxSurge would run two agents on one directory: leave it out, and set maxUnavailable" -}}
{{- end -}}
{{- if $many -}}
{{- range include "jetsync.volumes" . | fromYamlArray -}}
{{- if has "existingClaim" .sources -}}
{{- $problems = append $problems (printf "%s.existingClaim would be one directory for the agents of all pods: use %s" .key (eq $values.kind "DaemonSet" | ternary "hostPath, or kind Deployment" "persistentVolumeClaim, which gives each replica a claim of its own, or set replicas to 1")) -}}
{{- else if and (has "persistentVolumeClaim" .sources) (eq $values.kind "DaemonSet") -}}
{{- $problems = append $problems (printf "%s.persistentVolumeClaim would be one directory for the agents of all nodes: use hostPath, or kind StatefulSet" .key) -}}
{{- else if and (has "hostPath" .sources) (eq $values.kind "StatefulSet") -}}
{{- $problems = append $problems (printf "%s.hostPath would be one directory for all replicas on a node: use persistentVolumeClaim, or kind DaemonSet" .key) -}}
{{- end -}}
{{- end -}}
{{- if not (include "jetsync.existing" .) -}}
{{- range $index, $mapping := $values.config.mappings -}}
{{- if and (eq ($mapping.mode | default "two-way") "push-mirror") (not (contains "${" (printf "%s %s" $mapping.bucket ($mapping.prefix | default "")))) -}}
{{- $problems = append $problems (printf "config.mappings[%d] is a push-mirror in every pod, and each would delete what the others send: set its prefix to %s/" $index $variable) -}}
{{- end -}}
{{- end -}}
{{- range $index, $publication := $values.config.publications -}}
{{- if not (contains "${" $publication.channel) -}}
{{- $problems = append $problems (printf "config.publications[%d] would be published by every pod to one channel: set its channel to %s, or use kind Deployment" $index $variable) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $problems -}}
{{- end -}}

{{- define "jetsync.problemsOfRest" -}}
{{- $problems := list -}}
{{- with .Values.podDisruptionBudget -}}
{{- if and .enabled (not (kindIs "invalid" .minAvailable)) (ne $.Values.kind "DaemonSet") (le (int $.Values.replicas) 1) (ne (toString .minAvailable) "0") -}}
{{- $problems = append $problems (printf "podDisruptionBudget.minAvailable: %v with one replica keeps its node from ever being drained: leave minAvailable out, and set maxUnavailable to 1" .minAvailable) -}}
{{- end -}}
{{- end -}}
{{- if lt (int .Values.terminationGracePeriodSeconds) 15 -}}
{{- $problems = append $problems (printf "terminationGracePeriodSeconds is %d, and what is under way may take 8 s to end, and is then taken back: set it to 15 or more (30)" (int .Values.terminationGracePeriodSeconds)) -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled (not .Values.service.enabled) -}}
{{- $problems = append $problems "serviceMonitor.enabled needs the Service: set service.enabled to true, or use podMonitor.enabled" -}}
{{- end -}}
{{- if and .Values.serviceMonitor.enabled .Values.podMonitor.enabled -}}
{{- $problems = append $problems "serviceMonitor and podMonitor would scrape every agent twice: enable one of them" -}}
{{- end -}}
{{- if and .Values.image.digest (not (regexMatch "^sha256:[0-9a-f]{64}$" .Values.image.digest)) -}}
{{- $problems = append $problems (printf "image.digest is %s: write it as sha256: and 64 hex digits" .Values.image.digest) -}}
{{- end -}}
{{- if and .Values.volumePermissions.enabled (not (include "jetsync.ownedVolumes" . | fromYamlArray)) -}}
{{- $problems = append $problems "volumePermissions.enabled is for hostPath volumes that the agent writes to, and there is none: set it to false" -}}
{{- end -}}
{{- if and .Values.volumePermissions.enabled (not (and (hasKey .Values.podSecurityContext "runAsUser") (hasKey .Values.podSecurityContext "runAsGroup"))) -}}
{{- $problems = append $problems "volumePermissions.enabled needs to know whom to give the directories to: set podSecurityContext.runAsUser and runAsGroup" -}}
{{- end -}}
{{- toYaml $problems -}}
{{- end -}}
